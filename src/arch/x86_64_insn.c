/*
 * x86-64 instructions, as far as a function's prologue and epilogue need them:
 * the length of nearly every instruction (Intel SDM volume 2, chapter 2 and
 * appendix A), the meaning of those that move the stack pointer, save and
 * restore registers, or leave the straight line.
 *
 * An instruction that changes rsp in another way, or whose length is not known,
 * is BAD: nothing may be concluded from what follows.
 */
#include <string.h>

#include "stacksample/arch.h"

/* Register numbers of ModRM and opcodes -> ss_reg. */
static const uint8_t encoded[16] = {SS_REG_AX,  SS_REG_CX,  SS_REG_DX,  SS_REG_BX,
                                    SS_REG_SP,  SS_REG_BP,  SS_REG_SI,  SS_REG_DI,
                                    SS_REG_R8,  SS_REG_R9,  SS_REG_R10, SS_REG_R11,
                                    SS_REG_R12, SS_REG_R13, SS_REG_R14, SS_REG_R15};

struct decoder {
  const unsigned char *code;
  size_t len, at;
  bool failed;
  bool operand16, wide; /* prefix 66, REX.W */
  unsigned rex;
  /* ModRM: */
  unsigned mod, reg_field;
  int reg, base; /* ss_reg; base -1: no plain base + displacement */
  int64_t disp;
};

static unsigned byte(struct decoder *d)
{
  if (d->at >= d->len) {
    d->failed = true;
    return 0;
  }
  return d->code[d->at++];
}

/* A little-endian signed number of 1, 2, 4 or 8 bytes. */
static int64_t number(struct decoder *d, size_t size)
{
  uint64_t v = 0;
  if (d->len - d->at < size) {
    d->failed = true;
    return 0;
  }
  memcpy(&v, d->code + d->at, size);
  d->at += size;
  unsigned shift = 64 - 8 * (unsigned)size;
  return (int64_t)(v << shift) >> shift;
}

static void read_modrm(struct decoder *d)
{
  unsigned modrm = byte(d);
  unsigned rm = modrm & 7;
  d->mod = modrm >> 6;
  d->reg_field = modrm >> 3 & 7;
  d->reg = encoded[d->reg_field | (d->rex & 4) << 1];
  d->base = encoded[rm | (d->rex & 1) << 3];
  d->disp = 0;
  if (d->mod == 3)
    return;
  bool absolute = d->mod == 0 && rm == 5; /* rip-relative */
  if (rm == 4) {
    unsigned sib = byte(d);
    absolute = d->mod == 0 && (sib & 7) == 5;
    bool indexed = (sib >> 3 & 7) != 4 || (d->rex & 2) != 0;
    d->base = indexed ? -1 : encoded[(sib & 7) | (d->rex & 1) << 3];
  }
  if (absolute)
    d->base = -1;
  if (d->mod == 1)
    d->disp = number(d, 1);
  else if (d->mod == 2 || absolute)
    d->disp = number(d, 4);
}

static size_t immediate_size(const struct decoder *d)
{
  return d->operand16 ? 2 : 4;
}

static struct ss_insn made(enum ss_insn_kind kind, int reg, int base, int64_t imm)
{
  return (struct ss_insn){
      .kind = (uint8_t)kind, .reg = (int16_t)reg, .base = (int16_t)base, .imm = imm};
}

/* Group 1 (80, 81, 83): add, or, adc, sbb, and, sub, xor, cmp with a number. */
static struct ss_insn arithmetic(struct decoder *d, unsigned op)
{
  read_modrm(d);
  int64_t imm = number(d, op == 0x81 ? immediate_size(d) : 1);
  if (d->mod != 3 || d->base != SS_REG_SP || d->reg_field == 7)
    return made(SS_INSN_OTHER, -1, -1, 0);
  if (!d->wide || op == 0x80)
    return made(SS_INSN_BAD, -1, -1, 0);
  if (d->reg_field == 0)
    return made(SS_INSN_ADD_SP, SS_REG_SP, -1, imm);
  if (d->reg_field == 5)
    return made(SS_INSN_ADD_SP, SS_REG_SP, -1, -imm);
  if (d->reg_field == 4)
    return made(SS_INSN_LOWER_SP, SS_REG_SP, -1, imm);
  return made(SS_INSN_BAD, -1, -1, 0);
}

/* to = from between registers. */
static struct ss_insn move(const struct decoder *d, int to, int from)
{
  if (to == SS_REG_SP)
    return made(d->wide ? SS_INSN_SET_SP : SS_INSN_BAD, SS_REG_SP, from, 0);
  if (from == SS_REG_SP && d->wide)
    return made(SS_INSN_COPY_SP, to, SS_REG_SP, 0);
  return made(SS_INSN_SET, to, -1, 0);
}

static struct ss_insn move_or_access(struct decoder *d, unsigned op)
{
  read_modrm(d);
  if (op == 0x8d) { /* lea */
    if (d->reg == SS_REG_SP)
      return made(d->wide && d->base >= 0 ? SS_INSN_SET_SP : SS_INSN_BAD, SS_REG_SP,
                  d->base, d->disp);
    if (d->base == SS_REG_SP && d->wide)
      return made(SS_INSN_COPY_SP, d->reg, SS_REG_SP, d->disp);
    return made(SS_INSN_SET, d->reg, -1, 0);
  }
  if (d->mod == 3)
    return op == 0x89 ? move(d, d->base, d->reg) : move(d, d->reg, d->base);
  if (op == 0x89)
    return made(d->wide && d->base >= 0 ? SS_INSN_STORE : SS_INSN_OTHER, d->reg, d->base,
                d->disp);
  if (d->reg == SS_REG_SP && (!d->wide || d->base < 0))
    return made(SS_INSN_BAD, -1, -1, 0);
  return made(d->wide && d->base >= 0 ? SS_INSN_LOAD : SS_INSN_SET, d->reg, d->base,
              d->disp);
}

/* FE and FF: inc, dec, call, jmp, push. */
static struct ss_insn group5(struct decoder *d, unsigned op)
{
  read_modrm(d);
  if (op == 0xff && (d->reg_field == 2 || d->reg_field == 3))
    return made(SS_INSN_CALL, -1, -1, 0);
  if (op == 0xff && (d->reg_field == 4 || d->reg_field == 5))
    return made(SS_INSN_JUMP, -1, -1, 0);
  if (op == 0xff && d->reg_field == 6)
    return made(SS_INSN_ADD_SP, SS_REG_SP, -1, -8);
  return made(d->mod == 3 && d->base == SS_REG_SP ? SS_INSN_BAD : SS_INSN_OTHER, -1, -1,
              0);
}

/* Does an instruction of the one-byte map without a case of its own write the
 * register or memory of ModRM.rm? Only rsp matters. */
static struct ss_insn plain_modrm(struct decoder *d, bool writes_rm)
{
  read_modrm(d);
  if (writes_rm && d->mod == 3 && d->base == SS_REG_SP)
    return made(SS_INSN_BAD, -1, -1, 0);
  if (!writes_rm && d->reg == SS_REG_SP)
    return made(SS_INSN_BAD, -1, -1, 0);
  return made(SS_INSN_OTHER, -1, -1, 0);
}

/* sub of 4 or 8 bytes: of rsp, room of a size that is computed. */
static struct ss_insn subtract(struct decoder *d, unsigned op)
{
  read_modrm(d);
  bool of_sp = op == 0x29 ? d->mod == 3 && d->base == SS_REG_SP : d->reg == SS_REG_SP;
  if (!of_sp)
    return made(SS_INSN_OTHER, -1, -1, 0);
  return made(d->wide ? SS_INSN_LOWER_SP : SS_INSN_BAD, SS_REG_SP, -1, 0);
}

static struct ss_insn with_immediate(struct decoder *d, size_t size)
{
  read_modrm(d);
  number(d, size);
  return made(d->mod == 3 && d->base == SS_REG_SP ? SS_INSN_BAD : SS_INSN_OTHER, -1, -1,
              0);
}

/* Opcodes without ModRM. false: it has one, or is unknown. */
static bool without_modrm(struct decoder *d, unsigned op, struct ss_insn *out)
{
  *out = made(SS_INSN_OTHER, -1, -1, 0);
  if (op >= 0x50 && op <= 0x5f) {
    int reg = encoded[(op & 7) | (d->rex & 1) << 3];
    *out = made(op < 0x58 ? SS_INSN_PUSH : SS_INSN_POP, reg, -1, 0);
    if (op >= 0x58 && reg == SS_REG_SP)
      out->kind = SS_INSN_BAD;
  } else if (op >= 0x70 && op <= 0x7f) {
    *out = made(SS_INSN_BRANCH, -1, -1, number(d, 1));
  } else if (op >= 0xb8 && op <= 0xbf) {
    number(d, d->wide ? 8 : immediate_size(d));
    out->kind =
        encoded[(op & 7) | (d->rex & 1) << 3] == SS_REG_SP ? SS_INSN_BAD : SS_INSN_OTHER;
  } else if ((op >= 0xb0 && op <= 0xb7) || op == 0xa8 || (op < 0x40 && (op & 7) == 4)) {
    number(d, 1); /* mov, test, add al, imm8 and their kin */
  } else if ((op < 0x40 && (op & 7) == 5) || op == 0xa9) {
    number(d, immediate_size(d));
  } else if (op == 0x68 || op == 0x6a) { /* push imm */
    number(d, op == 0x6a ? 1 : 4);
    *out = made(SS_INSN_ADD_SP, SS_REG_SP, -1, -8);
  } else if (op == 0xe8 || op == 0xe9) {
    *out = made(op == 0xe8 ? SS_INSN_CALL : SS_INSN_JUMP, -1, -1, number(d, 4));
  } else if (op == 0xeb || (op >= 0xe0 && op <= 0xe3)) {
    *out = made(op == 0xeb ? SS_INSN_JUMP : SS_INSN_BRANCH, -1, -1, number(d, 1));
  } else if (op == 0xc3) {
    out->kind = SS_INSN_RET;
  } else if (op == 0xc2 || op == 0xc9 || op == 0xcc ||
             op == 0xf4) { /* ret n, leave, int3 */
    out->kind = SS_INSN_BAD;
  } else {
    return op == 0x90 || (op >= 0x91 && op <= 0x99) || (op >= 0xa4 && op <= 0xa7) ||
           (op >= 0xaa && op <= 0xaf) || op == 0xf8 || op == 0xf9 || op == 0xfc ||
           op == 0xfd;
  }
  return true;
}

static struct ss_insn one_byte_map(struct decoder *d, unsigned op)
{
  struct ss_insn out;
  if (without_modrm(d, op, &out))
    return out;
  if (op == 0x80 || op == 0x81 || op == 0x83)
    return arithmetic(d, op);
  if (op == 0x89 || op == 0x8b || op == 0x8d)
    return move_or_access(d, op);
  if (op == 0xfe || op == 0xff)
    return group5(d, op);
  if (op == 0x29 || op == 0x2b)
    return subtract(d, op);
  if (op < 0x40 && (op & 7) < 4) /* arithmetic; 38 and above compare */
    return plain_modrm(d, op >= 0x38 ? true : (op & 2) == 0);
  if (op == 0xc0 || op == 0xc1 || op == 0xc6 || op == 0x6b)
    return with_immediate(d, 1);
  if (op == 0xc7 || op == 0x69)
    return with_immediate(d, immediate_size(d));
  if (op == 0xf6 || op == 0xf7) { /* test has an immediate, not and neg have none */
    size_t at = d->at;
    bool test = at < d->len && (d->code[at] >> 3 & 7) < 2;
    return test ? with_immediate(d, op == 0xf6 ? 1 : immediate_size(d))
                : plain_modrm(d, true);
  }
  if (op == 0x63 || op == 0x8a)
    return plain_modrm(d, false);
  if (op == 0x86 || op == 0x87 || (op >= 0xd0 && op <= 0xd3))
    return plain_modrm(d, true);
  if (op == 0x84 || op == 0x85 || op == 0x88 || (op >= 0xd8 && op <= 0xdf)) {
    read_modrm(d); /* test, byte store, x87 */
    return made(SS_INSN_OTHER, -1, -1, 0);
  }
  return made(SS_INSN_BAD, -1, -1, 0);
}

/* Opcodes of the 0F map that are followed by a byte besides ModRM. */
static bool has_byte(unsigned op)
{
  return (op >= 0x70 && op <= 0x73) || op == 0xa4 || op == 0xac || op == 0xba ||
         op == 0xc2 || op == 0xc4 || op == 0xc5 || op == 0xc6;
}

static struct ss_insn two_byte_map(struct decoder *d)
{
  unsigned op = byte(d);
  if (op >= 0x80 && op <= 0x8f)
    return made(SS_INSN_BRANCH, -1, -1, number(d, 4));
  if (op == 0x05 || op == 0x77 || op == 0xa2 || op == 0x31 || op == 0x0b)
    return made(op == 0x0b ? SS_INSN_BAD : SS_INSN_OTHER, -1, -1, 0);
  if (op >= 0xc8 && op <= 0xcf) /* bswap */
    return made(SS_INSN_OTHER, -1, -1, 0);
  if (op == 0x38 || op == 0x3a) {
    byte(d);
    read_modrm(d);
    if (op == 0x3a)
      number(d, 1);
    return made(SS_INSN_OTHER, -1, -1, 0);
  }
  read_modrm(d);
  if (has_byte(op))
    number(d, 1);
  bool general = (op >= 0x40 && op <= 0x4f) || op == 0xaf || (op >= 0xb6 && op <= 0xbf);
  return made(general && d->reg == SS_REG_SP ? SS_INSN_BAD : SS_INSN_OTHER, -1, -1, 0);
}

/* VEX and EVEX: vector instructions; none of them changes rsp. */
static struct ss_insn vector(struct decoder *d, unsigned lead)
{
  unsigned p = byte(d), map = 1;
  d->rex = (p & 0x80) == 0 ? 4 : 0;
  if (lead != 0xc5) {
    map = lead == 0x62 ? p & 7 : p & 0x1f;
    d->rex |= (p & 0x40) == 0 ? 2 : 0;
    d->rex |= (p & 0x20) == 0 ? 1 : 0;
    byte(d);
    if (lead == 0x62)
      byte(d);
  }
  unsigned op = byte(d);
  if (map < 1 || map > 3)
    return made(SS_INSN_BAD, -1, -1, 0);
  if (map == 1 && op == 0x77 && lead != 0x62)
    return made(SS_INSN_OTHER, -1, -1, 0);
  read_modrm(d);
  if (map == 3 || (map == 1 && has_byte(op)))
    number(d, 1);
  return made(SS_INSN_OTHER, -1, -1, 0);
}

struct ss_insn ss_arch_decode(const unsigned char *code, size_t len)
{
  struct decoder d = {.code = code, .len = len < 15 ? len : 15};
  unsigned op = byte(&d);
  while (op == 0x66 || op == 0xf2 || op == 0xf3 || op == 0x2e || op == 0x3e ||
         op == 0x64 || op == 0x65 || op == 0xf0) {
    d.operand16 |= op == 0x66;
    op = byte(&d);
    if (d.failed)
      break;
  }
  if (op >= 0x40 && op <= 0x4f) {
    d.rex = op;
    d.wide = (op & 8) != 0;
    op = byte(&d);
  }
  struct ss_insn out;
  if (op == 0x0f)
    out = two_byte_map(&d);
  else if (op == 0xc4 || op == 0xc5 || op == 0x62)
    out = vector(&d, op);
  else
    out = one_byte_map(&d, op);
  if (d.failed)
    out = made(SS_INSN_BAD, -1, -1, 0);
  out.len = (uint8_t)d.at;
  return out;
}

bool ss_arch_is_call_before(const unsigned char *end, size_t before, int64_t *target)
{
  *target = 0;
  if (before >= 5 && end[-5] == 0xe8) {
    int32_t rel;
    memcpy(&rel, end - 4, 4);
    *target = rel;
    return true;
  }
  /* call r/m is FF /2 in 2 to 8 bytes with its prefixes. */
  for (size_t n = 2; n <= 8 && n <= before; n++) {
    struct ss_insn insn = ss_arch_decode(end - n, n);
    if (insn.kind == SS_INSN_CALL && insn.len == n && insn.imm == 0)
      return true;
  }
  return false;
}
