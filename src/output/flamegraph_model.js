// The numbers of flamegraph.html: filters, folds, inverts, searches, words.
// flamegraph.js, which follows it in one script, draws and listens.
//
// Data (JSON in the page, made by flamegraph.c) is one call tree in preorder
// and "cells": the self time of a node by (test phase, thread, state). Each
// filter adds up the cells it lets through, so every share shown is exact.
// Names reach the page only as canvas text or textContent, never as HTML.
'use strict';
const $ = id => document.getElementById(id);
const D = JSON.parse($('data').textContent);

// ---- data -------------------------------------------------------------------
// A name starts with one character: how many it shares with the one before.
const DIGITS = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
const names = [];
D.texts.forEach((s, i) => {
  const shared = DIGITS.indexOf(s[0]);
  names.push((shared ? names[i - 1].slice(0, shared) : '') + s.slice(1));
});
const kinds = Array.from(D.kinds, Number);
const PYTEST = names.push('[pytest]') - 1, INTERPRETER = names.push('[interpreter]') - 1;
kinds.push(2, 3);
const T = names.length;
// Order of enum ss_text_kind, then spin, which is a state and not a kind.
const KINDS = ['thread', 'Python', 'Python library', 'native', 'torch operator', 'kernel', 'waiting',
  'marker', 'spinning'];
const N = D.nodes.length / 2;
const text = new Int32Array(N), parent = new Int32Array(N).fill(-1);
for (let i = 0, depth = -1, at = []; i < N; i++) {
  text[i] = D.nodes[2 * i];
  depth += 1 - D.nodes[2 * i + 1];
  at[depth] = i;
  if (depth) parent[i] = at[depth - 1];
}
const cells = D.cells.length / 4;
const cellNode = new Int32Array(cells);
for (let i = 0, node = 0; i < cells; i++) cellNode[i] = node += D.cells[4 * i];
const lines = new Map(); // node -> [line, us, ...]
for (let i = 0, node = 0; i < D.lines.length;) {
  node += D.lines[i];
  const n = D.lines[i + 1] * 2;
  lines.set(node, D.lines.slice(i + 2, i + 2 + n));
  i += 2 + n;
}
// What "fold plumbing" joins: 1 pytest's own frames, 2 the process' start, 3
// native frames of the interpreter: only their own time is shown, as one box.
const plumbing = names.map((s, t) =>
  kinds[t] === 2 && /\((_pytest|pytest|pluggy|xdist|execnet|runpy)(\/|\.py)|<frozen runpy>/.test(s) ||
  /^<module> \(.*\bpytest(:|\/__main__)/.test(s) ? 1
  : /^(_start|__libc_start\w*|main|Py_\w*Main|pymain_\w+)\b/.test(s) ? 2
  : /(\((lib)?python3[.\d]*(\.so[.\d]*)?\)$)|^(lib)?python3[^ ]*\+0x/.test(s) ? 3 : 0);

// ---- settings, kept in the URL ----------------------------------------------
let cpuUs = 0, allUs = 0;
for (let i = 0; i < cells; i++) {
  const us = D.cells[4 * i + 2];
  allUs += us;
  if (D.running[D.combos[3 * D.cells[4 * i + 1] + 2]]) cpuUs += us;
}
// A run that mostly waits opens on everything: the waits are the story then.
const DEFAULTS = {test: '', phase: '', thread: '', state: cpuUs > 0.5 * D.wall ? 'cpu' : 'all',
  frames: '', fold: '1', view: 'down', q: '', z: ''};
const S = {...DEFAULTS};
function readUrl() {
  const url = new URLSearchParams((location.hash || location.search).slice(1));
  for (const key in DEFAULTS) S[key] = url.get(key) ?? DEFAULTS[key];
}
function writeUrl() {
  const url = new URLSearchParams();
  for (const key in DEFAULTS) if (S[key] !== DEFAULTS[key]) url.set(key, S[key]);
  const hash = '#' + url;
  if (hash !== (location.hash || '#')) history.replaceState(null, '', hash);
}

// ---- weights under the filter -----------------------------------------------
const self = new Float64Array(N), total = new Float64Array(N), count = new Float64Array(N),
  spin = new Float64Array(N), folded = new Uint8Array(N);
let grand = 0, samples = 0;
function stateWanted(state) {
  return S.state === 'all' || (S.state === 'cpu' ? D.running[state]
    : S.state === 'waiting' ? !D.running[state] : D.states[state] === S.state);
}
function threadWanted(thread) {
  const [kind, value] = S.thread.split(/:(.*)/s);
  return !S.thread || String(kind === 'role' ? D.threads[thread][1] : D.threads[thread][2]) === value;
}
function comboWanted(c) {
  const group = D.groups[D.combos[3 * c]];
  return (!S.test || D.tests[group[0]] === S.test) && (!S.phase || D.phases[group[1]] === S.phase) &&
    threadWanted(D.combos[3 * c + 1]) && stateWanted(D.combos[3 * c + 2]);
}
function weigh() {
  const wanted = Array.from({length: D.combos.length / 3}, (_, c) => comboWanted(c));
  const spinning = D.states.indexOf('spin');
  for (const a of [self, total, count, spin]) a.fill(0);
  grand = samples = 0;
  for (let i = 0; i < cells; i++) {
    const combo = D.cells[4 * i + 1], us = D.cells[4 * i + 2], n = cellNode[i];
    if (!wanted[combo]) continue;
    self[n] += us;
    total[n] += us;
    count[n] += D.cells[4 * i + 3];
    if (D.combos[3 * combo + 2] === spinning) spin[n] += us;
    grand += us;
    samples += D.cells[4 * i + 3];
  }
  for (let i = N - 1; i >= 0; i--) {
    const p = parent[i];
    if (p >= 0) total[p] += total[i], spin[p] += spin[i];
  }
  for (let i = 0; i < N; i++) {
    const p = parent[i], kind = plumbing[text[i]];
    folded[i] = S.fold !== '1' ? 0
      : kind === 1 || (kind && p >= 0 && folded[p] === 1) || (kind === 2 && p >= 0 && !kinds[text[p]]) ? 1
      : kind === 3 ? 2 : 0;
  }
}

// ---- the tree that is shown -------------------------------------------------
// t text, v total us, s self us, n samples, p parent, d depth, c children,
// b nodes of the data behind it, cur where a caller view goes on.
const wantedKind = i => !(S.frames === 'python' ? [3, 4, 5, 7].includes(kinds[text[i]])
  : S.frames === 'native' && [1, 2].includes(kinds[text[i]]));
const shown = i => folded[i] === 1 || wantedKind(i);
const viewText = i => [text[i], PYTEST, INTERPRETER][folded[i]];
const make = (t, p) => ({t, p, d: p ? p.d + 1 : 0, v: 0, s: 0, n: 0, sp: 0, c: null, b: [], cur: null});
const heavy = (a, b) => b.v - a.v || (names[a.t] < names[b.t] ? -1 : 1);
let root, of, zoom, selected, hovered;

function buildDown() {
  root = make(-1, null);
  root.c = [];
  of = new Array(N);
  const found = new Map(), all = [root];
  root.id = 0;
  for (let i = 0; i < N; i++) {
    if (!total[i]) continue;
    const up = parent[i] < 0 ? root : of[parent[i]], t = viewText(i), own = folded[i] === 2;
    let node = up;
    if (shown(i) && !(folded[i] === 1 && up.t === t) && (!own || self[i])) {
      const key = up.id * T + t;
      node = found.get(key);
      if (!node) {
        node = make(t, up);
        node.c = [];
        node.id = all.push(node) - 1;
        found.set(key, node);
        up.c.push(node);
      }
      node.v += own ? self[i] : total[i];
      node.sp += own ? 0 : spin[i];
      node.b.push(i);
    }
    of[i] = own ? up : node;
    node.s += self[i];
    node.n += count[i];
  }
  for (let i = all.length - 1; i >= 0; i--) {
    all[i].c.sort(heavy);
    if (all[i].p) all[i].p.n += all[i].n;
  }
  root.v = grand;
}

// The next node outwards that is shown, over what is hidden or folded into it.
function outward(i) {
  let j = parent[i];
  while (j >= 0 && (!shown(j) || folded[j] === 2 || (folded[i] === 1 && folded[j] === 1))) j = parent[j];
  return j;
}
function group(node, cursors) {
  const found = new Map();
  node.c = [];
  for (let k = 0; k < cursors.length; k += 2) {
    const at = cursors[k], leaf = cursors[k + 1];
    if (at < 0) continue;
    const t = viewText(at);
    let child = found.get(t);
    if (!child) {
      child = make(t, node);
      child.cur = [];
      found.set(t, child);
      node.c.push(child);
    }
    child.v += self[leaf];
    child.n += count[leaf];
    child.sp += Math.min(spin[leaf], self[leaf]);
    child.b.push(at);
    child.cur.push(at, leaf);
  }
  node.c.sort(heavy);
}
function buildInverted() {
  const cursors = [];
  for (let i = 0; i < N; i++) {
    if (self[i]) cursors.push(shown(i) ? i : outward(i), i);
  }
  root = make(-1, null);
  root.v = grand;
  root.n = samples;
  group(root, cursors);
}
// Callers are made only where somebody looks.
function children(node) {
  if (!node.c) group(node, node.cur.map((at, k) => k % 2 ? at : outward(at)));
  return node.c;
}

// ---- search -----------------------------------------------------------------
let matched = new Uint8Array(T), foundTexts = 0, foundUs = 0, badSearch = false;
function search() {
  matched = new Uint8Array(T);
  foundTexts = foundUs = 0;
  badSearch = false;
  if (!S.q) return;
  let re;
  try {
    re = new RegExp(S.q, /[A-Z]/.test(S.q) ? '' : 'i');
  } catch {
    badSearch = true;
    return;
  }
  const inside = new Uint8Array(N), seen = new Uint8Array(T);
  for (let t = 0; t < T; t++) matched[t] = re.test(names[t]) || (D.ops[t] && re.test(D.ops[t])) ? 1 : 0;
  for (let i = 0; i < N; i++) {
    inside[i] = matched[text[i]] || (parent[i] >= 0 && inside[parent[i]]) ? 1 : 0;
    if (inside[i]) foundUs += self[i];
    if (matched[text[i]] && total[i] && !seen[text[i]]) seen[text[i]] = 1, foundTexts++;
  }
}

// ---- words ------------------------------------------------------------------
const seconds = us => us >= 1e6 ? (us / 1e6).toPrecision(us < 1e9 ? 3 : 4).replace(/e.*/, '') + ' s'
  : us >= 1e3 ? (us / 1e3).toPrecision(3) + ' ms' : us ? us + ' us' : '0 s';
const nice = us => us >= 1e9 ? Math.round(us / 1e6) + ' s' : seconds(us);
const percent = (part, all) => all ? (100 * part / all).toFixed(part >= 0.1 * all ? 1 : 2) + ' %' : '-';
// A share with one standard error of its sampling, in percent.
function share(part) {
  if (!grand) return '-';
  const p = part / grand, e = samples ? 100 * Math.sqrt(p * (1 - p) / samples) : 0;
  return (100 * p).toFixed(p >= 0.1 ? 1 : 2) + (e >= 0.005 ? ' \u00b1 ' + e.toFixed(e >= 0.1 ? 1 : 2) : '') + ' %';
}
const label = node => node.t < 0 ? 'everything shown' : names[node.t];
const kindOf = node => node.t < 0 ? 0
  : node.sp > node.v / 2 && kinds[node.t] > 2 && kinds[node.t] < 6 ? 8 : kinds[node.t];
const many = (n, word, plural = 's') => `${n} ${word}${n === 1 ? '' : plural}`;
function el(tag, props, ...inside) {
  const e = Object.assign(document.createElement(tag), props);
  e.append(...inside);
  return e;
}
function hotLines(node) {
  const sums = new Map();
  for (const i of node.b) {
    const list = folded[i] ? null : lines.get(i);
    for (let k = 0; list && k < list.length; k += 2) {
      sums.set(list[k], (sums.get(list[k]) || 0) + list[k + 1]);
    }
  }
  const file = /\((.*):-?\d+\)$/.exec(label(node)), all = [...sums.values()].reduce((a, b) => a + b, 0);
  if (!file || !all) return '';
  return [...sums].sort((a, b) => b[1] - a[1]).slice(0, 3)
    .map(([line, us]) => `${file[1]}:${line} (${percent(us, all)})`).join(', ');
}
function facts(node) {
  const op = D.ops[node.t], hot = hotLines(node), out = [];
  out.push(KINDS[kindOf(node)] + (op ? ', ' + op : ''));
  out.push(`${nice(node.v)}: ${share(node.v)} of all` + (node.p ? `, ${percent(node.v, node.p.v)} of ` +
    (S.view === 'inverted' ? 'what it called' : 'its parent') : '') + `; ${node.n} samples`);
  if (S.view !== 'inverted') out.push(`itself ${nice(node.s)}: ${share(node.s)} of all`);
  if (hot) out.push('hottest lines: ' + hot);
  if (node.t === PYTEST || node.t === INTERPRETER) out.push('several frames; m shows them one by one');
  return out;
}
