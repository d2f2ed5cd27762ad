// The viewer of flamegraph.html: filters, folds, inverts, draws and tells.
//
// Data (JSON in the page, made by flamegraph.c) is one call tree in preorder
// and "cells": the self time of a node by (test phase, thread, state). Each
// filter adds up the cells it lets through, so every share shown is exact.
// Names reach the page only as canvas text or textContent, never as HTML.
'use strict';
(() => {
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
const DEFAULTS = {test: '', phase: '', thread: '', state: cpuUs > 0.1 * D.wall ? 'cpu' : 'all',
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

// ---- drawing ----------------------------------------------------------------
const canvas = $('graph'), ctx = canvas.getContext('2d'), scroll = $('scroll');
let rows = [], width = 0, height = 0, rowH = 18, charW = 7, colours = [], ink, mark, focus, back, hatch;
function readColours() {
  const css = getComputedStyle(document.documentElement);
  const get = name => css.getPropertyValue(name).trim();
  colours = Array.from({length: 9}, (_, i) => get('--k' + i));
  [ink, mark, focus, back] = ['--ink', '--mark', '--focus', '--bg'].map(get);
  const tile = document.createElement('canvas');
  tile.width = tile.height = 6;
  const c = tile.getContext('2d');
  c.strokeStyle = ink;
  c.globalAlpha = 0.35;
  c.beginPath();
  c.moveTo(0, 6);
  c.lineTo(6, 0);
  c.stroke();
  hatch = ctx.createPattern(tile, 'repeat');
}
function shade(t) { // the same name has the same shade in every run
  let h = 0;
  for (let i = 0; i < names[t].length && i < 40; i++) h = (h * 31 + names[t].charCodeAt(i)) & 0xffff;
  return 1 - (h % 7) * 0.045;
}
const shades = new Float32Array(T);

// Which boxes there are at this zoom, wider than half a pixel.
function layout() {
  width = scroll.clientWidth;
  height = scroll.clientHeight;
  rowH = matchMedia('(pointer: coarse)').matches ? 24 : 18;
  rows = [];
  for (let node = zoom; node; node = node.p) rows[node.d] = [{node, x: 0, w: width}];
  const todo = [rows[zoom.d][0]];
  while (todo.length) {
    const box = todo.pop();
    if (!box.node.v || box.w < 1) continue;
    let x = box.x;
    for (const node of children(box.node)) {
      const w = box.w * node.v / box.node.v;
      if (w < 0.5) break; // the rest is narrower still
      const next = {node, x, w};
      (rows[node.d] = rows[node.d] || []).push(next);
      todo.push(next);
      x += w;
    }
  }
  for (const row of rows) row.sort((a, b) => a.x - b.x);
  $('room').style.height = rows.length * rowH + 'px';
  const dpr = devicePixelRatio || 1;
  canvas.width = Math.round(width * dpr);
  canvas.height = Math.round(height * dpr);
  canvas.style.width = width + 'px';
  canvas.style.height = height + 'px';
  ctx.setTransform(dpr, 0, 0, dpr, 0, 0);
}
function drawBox({node, x, w}, y) {
  const kind = kindOf(node), hit = node.t >= 0 && matched[node.t];
  const gap = w > 3 ? 1 : 0;
  ctx.globalAlpha = (node.d < zoom.d ? 0.55 : 1) *
    (node.t < 0 || hit ? 1 : shades[node.t] || (shades[node.t] = shade(node.t)));
  ctx.fillStyle = hit ? mark : colours[kind];
  ctx.fillRect(x, y, w - gap, rowH - 1);
  ctx.globalAlpha = 1;
  if (kind === 6 || kind === 8) {
    ctx.fillStyle = hatch;
    ctx.fillRect(x, y, w - gap, rowH - 1);
  }
  const room = Math.floor((w - 7) / charW);
  if (room >= 3) {
    let s = node.t < 0 ? `everything shown: ${nice(node.v)}` : label(node);
    if (s.length > room) s = s.slice(0, room - 1) + '\u2026';
    ctx.fillStyle = hit ? '#fff' : ink;
    ctx.fillText(s, x + 4, y + rowH / 2);
  }
  if (node === selected || node === hovered) {
    ctx.strokeStyle = node === selected ? focus : ink;
    ctx.lineWidth = node === selected ? 2 : 1;
    ctx.strokeRect(x + 1, y + 1, Math.max(w - 2 - gap, 1), rowH - 3);
  }
}
let pending = false;
function draw() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => {
    pending = false;
    const top = scroll.scrollTop;
    ctx.font = '12px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace';
    ctx.textBaseline = 'middle';
    charW = ctx.measureText('0123456789').width / 10;
    ctx.fillStyle = back;
    ctx.fillRect(0, 0, width, height);
    for (let d = Math.max(0, Math.floor(top / rowH)); d < rows.length && d * rowH < top + height; d++) {
      for (const box of rows[d]) drawBox(box, d * rowH - top);
    }
  });
}
function boxAt(event) {
  const r = canvas.getBoundingClientRect(), x = event.clientX - r.left;
  const row = rows[Math.floor((event.clientY - r.top + scroll.scrollTop) / rowH)];
  return row && row.find(b => x >= b.x && x < b.x + b.w);
}
const boxOf = node => (rows[node.d] || []).find(b => b.node === node);

// ---- card -------------------------------------------------------------------
function showCard(node, x, y) {
  const card = $('card');
  card.hidden = !node;
  if (!node) return;
  card.replaceChildren(el('b', {textContent: label(node)}),
    ...facts(node).map(s => el('div', {textContent: s})));
  const w = card.offsetWidth, h = card.offsetHeight;
  card.style.left = Math.max(4, Math.min(x + 14, innerWidth - w - 8)) + 'px';
  card.style.top = (y + 18 + h > innerHeight ? Math.max(4, y - h - 12) : y + 18) + 'px';
}
function select(node, tell) {
  selected = node;
  const box = node && boxOf(node);
  if (!box) return draw();
  const y = node.d * rowH;
  if (y < scroll.scrollTop) scroll.scrollTop = y;
  if (y + rowH > scroll.scrollTop + height) scroll.scrollTop = y + rowH - height;
  const r = canvas.getBoundingClientRect();
  if (tell) {
    showCard(node, r.left + Math.min(Math.max(box.x, 0), width - 40), r.top + y - scroll.scrollTop);
    $('live').textContent = [label(node), ...facts(node)].join('. ');
  }
  draw();
}

// ---- zoom -------------------------------------------------------------------
function zoomTo(node, tell) {
  zoom = node || root;
  S.z = zoom === root || S.view !== 'down' ? '' : String(zoom.b[0]);
  layout();
  crumbs();
  writeUrl();
  if (zoom.d * rowH < scroll.scrollTop) scroll.scrollTop = Math.max(0, (zoom.d - 1) * rowH);
  select(zoom, tell);
}
function crumbs() {
  const path = [];
  for (let node = zoom; node !== root; node = node.p) path.unshift(node);
  const items = [root, ...path.slice(-3)];
  $('crumbs').replaceChildren();
  $('reset').hidden = !path.length;
  if (!path.length) return;
  items.forEach((node, i) => {
    const more = i === 1 && path.length > 3 ? ' \u203a \u2026 \u203a ' : ' \u203a ';
    if (i) $('crumbs').append(more);
    $('crumbs').append(el('button', {type: 'button', className: 'link', title: label(node),
      textContent: i ? label(node) : 'everything', onclick: () => zoomTo(node)}));
  });
  $('crumbs').append(` ${share(zoom.v)}`);
}

// ---- table ------------------------------------------------------------------
let order = 'self', ascending = false;
const COLUMNS = [['name', 'Function'], ['kind', 'Kind', 'x'], ['self', 'Self'], ['selfShare', 'Self %'],
  ['total', 'Total'], ['totalShare', 'Total %'], ['n', 'Samples', 'x']];
const TABLE_ROWS = 500;
function functions() {
  const by = new Map(), open = [], above = new Uint16Array(T);
  for (let i = 0; i < N; i++) {
    while (open.length && open[open.length - 1] !== parent[i]) above[text[open.pop()]]--;
    open.push(i);
    const t = text[i];
    if (total[i] && wantedKind(i)) {
      let row = by.get(t);
      if (!row) by.set(t, row = {t, name: names[t], kind: KINDS[kinds[t]], self: 0, total: 0, n: 0});
      row.self += self[i];
      row.n += count[i];
      if (!above[t]) row.total += total[i]; // recursion counts once a stack
    }
    above[t]++;
  }
  return [...by.values()].filter(r => (kinds[r.t] || r.self) && (!S.q || badSearch || matched[r.t]));
}
function tableHead() {
  return el('tr', {}, ...COLUMNS.map(([key, title, extra]) => {
    const by = key.replace('Share', ''), on = by === order && !key.endsWith('Share');
    const th = el('th', {className: extra || '', scope: 'col'}, el('button', {type: 'button',
      textContent: title + (on ? ascending ? ' \u25b4' : ' \u25be' : ''),
      onclick: () => {
        ascending = order === by ? !ascending : by === 'name' || by === 'kind';
        order = by;
        table();
        $('list').querySelectorAll('th button')[COLUMNS.findIndex(c => c[0] === key)].focus();
      }}));
    th.setAttribute('aria-sort', on ? ascending ? 'ascending' : 'descending' : 'none');
    return th;
  }));
}
function table() {
  const all = functions(), sign = ascending ? 1 : -1;
  all.sort((a, b) => (a[order] < b[order] ? -sign : a[order] > b[order] ? sign : b.self - a.self));
  const body = all.slice(0, TABLE_ROWS).map(r => el('tr', {},
    el('td', {}, el('span', {className: 'chip'}),
      el('button', {type: 'button', textContent: r.name, title: 'Show in the flamegraph: ' + r.name,
        onclick: () => set({q: '^' + r.name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&') + '$', view: 'down', z: ''})})),
    el('td', {className: 'x', textContent: r.kind}),
    el('td', {textContent: nice(r.self)}), el('td', {textContent: percent(r.self, grand)}),
    el('td', {textContent: nice(r.total)}), el('td', {textContent: percent(r.total, grand)}),
    el('td', {className: 'x', textContent: r.n})));
  body.forEach((tr, i) => { tr.querySelector('.chip').style.background = colours[kinds[all[i].t]]; });
  const what = `${many(all.length, 'function')}${S.q && !badSearch ? ' that match' : ''}` +
    (all.length > TABLE_ROWS ? `, the first ${TABLE_ROWS} are listed` : '') +
    '; self is the function\'s own time, total includes what it called.';
  $('list').replaceChildren(el('p', {textContent: what}),
    el('table', {}, el('thead', {}, tableHead()), el('tbody', {}, ...body)));
}

// ---- the page around it -----------------------------------------------------
function says() {
  const hidden = S.state === 'all' ? 0 : allUs - cpuUs;
  const of = {cpu: ' on CPU', waiting: ' of waiting', all: ''}[S.state] ?? ` of ${S.state}`;
  const p = $('says');
  p.replaceChildren('Width is thread time, not samples: ', el('b', {textContent: nice(grand) + of}),
    S.test || S.phase || S.thread ? ', filtered' : `, the whole run (${many(D.threads.length, 'thread')}, ` +
    `${many(D.processes, 'process', 'es')})`, '. ');
  if (S.state === 'cpu' && hidden) {
    p.append(`${nice(hidden)} of waiting hidden `, el('button', {type: 'button', className: 'link',
      textContent: 'show', onclick: () => set({state: 'all'})}), '. ');
  }
  if (!S.test && widest.length > 1 && D.tests[widest[0].i] !== '(no test)') {
    const test = D.tests[widest[0].i];
    p.append(`Widest test: `, el('button', {type: 'button', className: 'link', title: test,
      textContent: short(test), onclick: () => set({test})}), ` ${percent(widest[0].us, cpuUs || allUs)}. `);
  }
}
function report() {
  $('found').textContent = !S.q ? '' : badSearch ? 'not a regular expression'
    : `${share(foundUs)} in ${many(foundTexts, 'function')}`;
  says();
}
const short = id => id.length > 60 ? '\u2026' + id.slice(-58) : id;
function option(select, value, label) {
  select.append(el('option', {value, textContent: label}));
}
const widest = D.tests.map((_, i) => ({i, us: 0}));
function fillSelects() {
  for (let i = 0; i < cells; i++) {
    const c = D.cells[4 * i + 1];
    if (cpuUs && !D.running[D.combos[3 * c + 2]]) continue;
    widest[D.groups[D.combos[3 * c]][0]].us += D.cells[4 * i + 2];
  }
  widest.sort((a, b) => b.us - a.us);
  option($('test'), '', 'all tests');
  for (const {i, us} of widest) {
    const at = D.tests[i].indexOf('::');
    option($('test'), D.tests[i], at < 0 ? `${D.tests[i]}  ${percent(us, cpuUs || allUs)}`
      : `${short(D.tests[i].slice(at + 2))}  ${percent(us, cpuUs || allUs)}  ${D.tests[i].slice(0, at)}`);
  }
  option($('phase'), '', 'all phases');
  for (const phase of D.phases) if (phase) option($('phase'), phase, phase);
  option($('thread'), '', 'all threads');
  const roles = new Map();
  for (const [, role] of D.threads) roles.set(role, (roles.get(role) || 0) + 1);
  for (const [role, n] of roles) option($('thread'), 'role:' + role, `${role || 'no role'} (${n})`);
  for (const [name, , tid, process] of D.threads) {
    option($('thread'), 'tid:' + tid, `${name} ${tid}` + (D.processes > 1 ? `, ${process}` : ''));
  }
  option($('state'), 'cpu', 'on CPU');
  option($('state'), 'waiting', 'all waiting');
  option($('state'), 'all', 'everything');
  for (const state of new Set(D.combos.filter((_, i) => i % 3 === 2))) {
    option($('state'), D.states[state], D.states[state]);
  }
}
function legend() {
  const used = new Set(kinds.slice(0, -1));
  if (D.combos.some((s, i) => i % 3 === 2 && D.states[s] === 'spin')) used.add(8);
  $('legend').replaceChildren(...KINDS.flatMap((word, k) => {
    if (!used.has(k)) return [];
    const chip = el('span', {className: 'chip'});
    chip.style.background = colours[k];
    return [el('span', {}, chip, word)];
  }));
  $('note').textContent = D.other.nodes ? `${D.other.nodes} small boxes are joined as (other): ` +
    `${percent(D.other.us, allUs)} of the time` : '';
}

// ---- changes ----------------------------------------------------------------
function sync() {
  for (const id of ['test', 'phase', 'thread', 'state', 'frames']) {
    $(id).value = S[id];
    if ($(id).selectedIndex < 0) $(id).value = S[id] = DEFAULTS[id];
  }
  if ($('q').value !== S.q) $('q').value = S.q;
  $('fold').checked = S.fold === '1';
  for (const id of ['down', 'inverted', 'table']) $(id).setAttribute('aria-pressed', String(S.view === id));
  $('list').hidden = S.view !== 'table';
  $('scroll').style.visibility = S.view === 'table' ? 'hidden' : '';
}
// Everything follows from S; `keep`: only the search changed, the tree did not.
function update(keep) {
  sync();
  $('card').hidden = true;
  if (!keep) {
    weigh();
    hovered = selected = null;
    (S.view === 'inverted' ? buildInverted : buildDown)();
    zoom = (S.view === 'down' && S.z && of[Number(S.z)]) || root;
    layout();
    crumbs();
  }
  search();
  report();
  if (S.view === 'table') table();
  writeUrl();
  draw();
}
function set(changes) {
  const keep = Object.keys(changes).every(k => k === 'q');
  if (!keep && !('z' in changes) && changes.view) changes.z = '';
  Object.assign(S, changes);
  update(keep);
}
function theme(value) {
  document.documentElement.dataset.theme = value;
  readColours();
  legend();
  if (root) S.view === 'table' ? table() : draw();
}
function toggleTheme() {
  const value = document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark';
  try { localStorage.setItem('stacksample-theme', value); } catch { /* no storage: only this page */ }
  theme(value);
}

// ---- keys -------------------------------------------------------------------
function sideways(step) {
  const row = rows[selected.d], at = row.findIndex(b => b.node === selected);
  if (row[at + step]) select(row[at + step].node, true);
}
function nextMatch(step) {
  const all = rows.flat().filter(b => b.node.t >= 0 && matched[b.node.t]).map(b => b.node);
  if (!all.length) return;
  const at = all.indexOf(selected);
  select(all[(at < 0 ? (step > 0 ? 0 : all.length - 1) : at + step + all.length) % all.length], true);
}
function cycle(id) {
  const list = $(id);
  set({[id]: list.options[(list.selectedIndex + 1) % list.options.length].value});
}
function copyStack() {
  const path = [];
  for (let node = selected || zoom; node && node.t >= 0; node = node.p) path.unshift(label(node));
  navigator.clipboard?.writeText(path.join(';')).catch(() => {});
}
const KEYS = [
  ['/', 'search (Enter: next, Shift-Enter: previous, Esc: clear)', () => $('q').focus()],
  ['n', 'next match', () => nextMatch(1)], ['N', 'previous match', () => nextMatch(-1)],
  ['ArrowUp', 'to the parent', () => selected.p && select(selected.p, true)],
  ['ArrowDown', 'to the widest child', () => { const b = (rows[selected.d + 1] || []).find(x => x.node.p === selected); if (b) select(b.node, true); }],
  ['ArrowLeft', 'box to the left', () => sideways(-1)], ['ArrowRight', 'box to the right', () => sideways(1)],
  ['Enter', 'zoom into the selected box', () => zoomTo(selected, true)],
  ['Backspace', 'zoom out one step', () => zoomTo(zoom.p || root, true)],
  ['0', 'zoom out to everything', () => zoomTo(root, true)],
  ['e', 'filter: test', () => $('test').focus()], ['p', 'filter: phase', () => $('phase').focus()],
  ['h', 'filter: thread or role', () => $('thread').focus()], ['s', 'filter: state', () => $('state').focus()],
  ['w', 'only the widest test, or all again', () => set({test: S.test ? '' : D.tests[widest[0].i]})],
  ['f', 'all frames, Python only, native only', () => cycle('frames')],
  ['m', 'fold the frames of pytest and the interpreter, or show them', () => set({fold: S.fold === '1' ? '0' : '1'})],
  ['i', 'inverted (callers of each function)', () => set({view: S.view === 'inverted' ? 'down' : 'inverted'})],
  ['t', 'table', () => set({view: S.view === 'table' ? 'down' : 'table'})],
  ['x', 'clear all filters', () => set({...DEFAULTS, view: S.view})],
  ['c', 'copy the selected stack', copyStack], ['d', 'light or dark', toggleTheme],
  ['?', 'this list', () => $('help').showModal()],
];
const GRAPH_KEYS = /^(Arrow|Enter|Backspace)/;
function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $('help').open) return;
  const typing = event.target.matches('select, input[type=search]');
  if (event.key === 'Escape') {
    if (event.target.id === 'q') set({q: ''});
    $('card').hidden = true;
    if (typing) canvas.focus();
    return;
  }
  if (typing || (GRAPH_KEYS.test(event.key) && event.target !== canvas && event.target !== document.body)) return;
  const found = KEYS.find(([key]) => key === event.key);
  if (!found || (GRAPH_KEYS.test(event.key) && S.view === 'table')) return;
  event.preventDefault();
  selected = selected || zoom;
  found[2]();
}

// ---- start ------------------------------------------------------------------
function listen() {
  document.addEventListener('keydown', onKey);
  for (const id of ['test', 'phase', 'thread', 'state', 'frames']) $(id).onchange = () => set({[id]: $(id).value});
  for (const id of ['down', 'inverted', 'table']) $(id).onclick = () => set({view: id});
  $('fold').onchange = () => set({fold: $('fold').checked ? '1' : '0'});
  $('q').oninput = () => set({q: $('q').value});
  $('q').onkeydown = e => { if (e.key === 'Enter') e.preventDefault(), nextMatch(e.shiftKey ? -1 : 1); };
  $('bar').onsubmit = e => e.preventDefault();
  $('reset').onclick = () => zoomTo(root);
  $('theme').onclick = toggleTheme;
  $('keys').onclick = () => $('help').showModal();
  scroll.onscroll = () => { $('card').hidden = true; draw(); };
  canvas.onpointermove = e => {
    const box = e.pointerType === 'touch' ? null : boxAt(e);
    if (hovered !== (box && box.node)) hovered = box && box.node, draw();
    canvas.style.cursor = box ? 'pointer' : '';
    if (e.pointerType !== 'touch') showCard(box && box.node, e.clientX, e.clientY);
  };
  canvas.onpointerleave = () => { hovered = null; $('card').hidden = true; draw(); };
  canvas.onclick = e => {
    const box = boxAt(e);
    if (!box) return;
    // A finger cannot hover: the first tap tells, the second zooms.
    if (e.pointerType === 'touch' && selected !== box.node) return select(box.node, true);
    zoomTo(box.node);
  };
  addEventListener('hashchange', () => { readUrl(); update(); });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', e => theme(e.matches ? 'dark' : 'light'));
  new ResizeObserver(() => { layout(); draw(); }).observe(scroll);
}
function start() {
  let kept = null;
  try { kept = localStorage.getItem('stacksample-theme'); } catch { /* no storage */ }
  $('command').textContent = D.command;
  theme(kept || (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light'));
  fillSelects();
  $('help').querySelector('table').append(...KEYS.map(([key, what]) =>
    el('tr', {}, el('td', {textContent: key.replace('Arrow', '')}), el('td', {textContent: what}))));
  readUrl();
  update();
  listen();
}
start();
})();
