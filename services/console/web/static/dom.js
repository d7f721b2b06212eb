// Small tools: everything a candidate wrote is put in as text, never as markup.
export const $ = (selector) => document.querySelector(selector);

export async function get(path, query = {}) {
  const answer = await fetch(`${path}?${new URLSearchParams(query)}`);
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error);
  return value;
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const make = (kind, attributes = {}, ...children) => filled(document.createElement(kind), attributes, children);
export const draw = (kind, attributes = {}, ...children) =>
  filled(document.createElementNS("http://www.w3.org/2000/svg", kind), attributes, children);

export const absent = (value) => value === null || value === undefined;
export const shown = (value, digits = 4) => (absent(value) ? "–" : Number(value).toFixed(digits));
export const whole = (value) => (absent(value) ? "–" : Math.round(value).toLocaleString("en"));
export const clock = (seconds) => {
  const all = Math.max(0, Math.round(seconds)), two = (number) => String(number).padStart(2, "0");
  return all < 3600 ? `${Math.floor(all / 60)}:${two(all % 60)}` : `${Math.floor(all / 3600)}:${two(Math.floor(all / 60) % 60)}:${two(all % 60)}`;
};
export const interval = (row) => (absent(row.fitness_low) ? "" : `[${shown(row.fitness_low, 3)}, ${shown(row.fitness_high, 3)}]`);
export const facts = (pairs) => make("dl", {}, ...pairs.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]));
