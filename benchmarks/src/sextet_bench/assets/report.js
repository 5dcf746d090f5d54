'use strict';
// Without this script everything is there to read; with it, tables sort, and papers, verdicts and words filter.

const order = (a, b) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === 'number' ? -1 : 1);

function valueOf(cell) {
  const text = cell.dataset.sort ?? cell.textContent.trim();
  const number = Number(text);
  return text === '' || Number.isNaN(number) ? text : number;
}

function sortBy(table, head, index) {
  const up = head.getAttribute('aria-sort') !== 'ascending';
  for (const other of table.querySelectorAll('th[aria-sort]')) other.removeAttribute('aria-sort');
  head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
  const body = table.tBodies[0];
  const rows = [...body.rows].map(row => [valueOf(row.cells[index]), row]);
  const empty = rows.filter(([value]) => value === '');  // stay at the end both ways
  const full = rows.filter(([value]) => value !== '').sort((a, b) => (up ? 1 : -1) * order(a[0], b[0]));
  body.append(...[...full, ...empty].map(([, row]) => row));
}

for (const table of document.querySelectorAll('table')) {
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  heads.forEach((head, index) => {
    if (!head.textContent.trim()) return;
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener('click', () => sortBy(table, head, index));
  });
}

const tools = document.querySelector('.tools');
const [text, paper, verdict] = ['text', 'paper', 'verdict'].map(name => tools.querySelector(`[name=${name}]`));
const items = [...document.querySelectorAll('[data-paper]')];
const words = new Map(items.map(item => {
  const section = item.dataset.for && document.getElementById(item.dataset.for);
  return [item, (item.textContent + (section ? section.textContent : '')).toLowerCase()];
}));

function filter() {
  const wanted = text.value.trim().toLowerCase();
  for (const item of items) {
    item.hidden = (paper.value && item.dataset.paper !== paper.value)
      || (verdict.value && !item.dataset.verdicts.split('|').includes(verdict.value))
      || !words.get(item).includes(wanted);
  }
  const shown = kind => { const all = items.filter(item => item.matches(kind));
    return `${all.filter(item => !item.hidden).length} of ${all.length}`; };
  tools.querySelector('output').textContent = `${shown('#overview tr')} tables, ${shown('#claims tr')} claims`;
}

function openTarget() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.matches('[data-paper]')) target.querySelector('details').open = true;
}

text.addEventListener('input', filter);
for (const choice of [paper, verdict]) choice.addEventListener('change', filter);
tools.querySelector('[name=all]').addEventListener('click', () => {
  text.value = paper.value = verdict.value = '';
  filter();
});
tools.querySelector('[name=theme]').addEventListener('click', () => {
  const root = document.documentElement.style;
  const dark = (root.colorScheme || (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')) === 'dark';
  root.colorScheme = dark ? 'light' : 'dark';
});
document.addEventListener('keydown', event => {
  if (event.key === '/' && !event.target.closest('input, select')) { event.preventDefault(); text.focus(); }
  if (event.key === 'Escape' && event.target === text) { text.value = ''; filter(); }
});
addEventListener('hashchange', openTarget);
openTarget();
tools.hidden = false;
filter();
