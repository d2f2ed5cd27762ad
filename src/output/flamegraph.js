// The page of flamegraph.html: drawing, table, filters, keys. Follows
// flamegraph_model.js in one script; all state that a link should keep is in S.

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
