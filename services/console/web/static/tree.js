// The phylogenetic tree: parents to the left, one row per leaf; drawn whole, so that 2,000 nodes stay fluid.
import { $, absent, draw, make, shown } from "./dom.js";
import { matches, state } from "./state.js";

const COLUMN = 240, ROW = 22, NAMED = 400;
const STATES = { archived: "#2f8132", rejected: "#b3362b", training: "#d99a1c" }, OTHER = "#9aa5b1";
const STAGES = ["#2563a8", "#c2541b", "#2f8132", "#8a4fb0"];
const view = { x: 40, y: 40, k: 1 }, folded = new Set();
let shape = null, choose = () => {};

const ramp = (share) => `hsl(${260 - 200 * share} 65% ${38 + 18 * share}%)`;

function layout(nodes) {
  const known = new Map(nodes.map((node) => [node.id, node])), children = new Map(), places = new Map(), order = [];
  for (const node of nodes) {
    const parent = known.has(node.parent) ? node.parent : "";
    if (!children.has(parent)) children.set(parent, []);
    children.get(parent).push(node.id);
  }
  const kids = (id) => (folded.has(id) ? [] : children.get(id) ?? []);
  const waiting = [...(children.get("") ?? [])].reverse().map((id) => [id, 0]);
  while (waiting.length) {
    const [id, depth] = waiting.pop();
    places.set(id, { x: depth * COLUMN, y: 0 });
    order.push(id);
    for (const kid of [...kids(id)].reverse()) waiting.push([kid, depth + 1]);
  }
  let row = 0;
  for (const id of order) if (!kids(id).length) places.get(id).y = ROW * row++;
  for (const id of [...order].reverse()) {
    const below = kids(id);
    if (below.length) places.get(id).y = below.reduce((sum, kid) => sum + places.get(kid).y, 0) / below.length;
  }
  return { known, children, places, order, kids };
}

const MEASURES = {
  fitness: (node) => node.fitness,
  loss: (node) => (absent(node.loss) ? null : -node.loss),
  age: (node, place) => place,
};

// How a node is filled, and what the legend says about it: [text, colour] pairs.
function colouring() {
  const how = $("#colour").value;
  if (how === "state") {
    const there = [...new Set(state.nodes.map((node) => node.state))].sort();
    return { fill: (node) => STATES[node.state] ?? OTHER, legend: there.map((one) => [one, STATES[one] ?? OTHER]) };
  }
  if (how === "stage") {
    const stage = (node) => state.byId.get(node.id)?.stage ?? "";
    const there = [...new Set(state.nodes.map(stage))].filter(Boolean).sort();
    const colour = (one) => STAGES[there.indexOf(one) % STAGES.length] ?? null;
    return { fill: (node) => colour(stage(node)), legend: there.map((one) => [one, colour(one)]) };
  }
  const values = new Map(state.nodes.map((node, place) => [node.id, MEASURES[how](node, place)]));
  const known = [...values.values()].filter((one) => !absent(one));
  const low = Math.min(...known), high = Math.max(...known);
  const share = (value) => (high > low ? (value - low) / (high - low) : 1);
  const text = (value) => (how === "age" ? (value === low ? "oldest" : "newest") : shown(Math.abs(value), 3));
  const legend = known.length ? [[text(low), ramp(share(low))], [text(high), ramp(1)]] : [];
  return { fill: (node) => (absent(values.get(node.id)) ? null : ramp(share(values.get(node.id)))), legend };
}

function path(from, to) {
  const middle = (from.x + to.x) / 2;
  return `M${from.x},${from.y}C${middle},${from.y} ${middle},${to.y} ${to.x},${to.y}`;
}

function dot(id, fill) {
  const node = shape.known.get(id), colour = fill(node), found = state.find && matches(node);
  const circle = draw("circle", {
    cx: shape.places.get(id).x, cy: shape.places.get(id).y, r: folded.has(id) ? 9 : 6, role: "button", "data-id": id,
    tabindex: id === (state.chosen || shape.order[0]) ? 0 : -1,
    class: `${colour ? "" : "unknown"} ${id === state.chosen ? "chosen" : ""} ${found ? "found" : ""}`,
    "aria-label": `${node.name || id}, ${node.state}, fitness ${shown(node.fitness, 3)}`,
  });
  if (colour) circle.style.fill = colour;
  return circle;
}

function label(id) {
  const { x, y } = shape.places.get(id), node = shape.known.get(id);
  const hidden = folded.has(id) ? ` (+${(shape.children.get(id) ?? []).length})` : "";
  return draw("text", { x: x + 10, y: y + 4 }, (node.name || id) + hidden);
}

export function drawTree() {
  const begun = performance.now(), svg = $("#tree svg"), focused = document.activeElement?.dataset?.id;
  shape = layout(state.nodes);
  const { places, known, order } = shape, { fill, legend } = colouring();
  const lines = order.filter((id) => places.has(known.get(id).parent)).map((id) => path(places.get(known.get(id).parent), places.get(id)));
  const told = (id) => order.length <= NAMED || id === state.chosen || (state.find && matches(known.get(id)));
  svg.replaceChildren(draw("g", { id: "picture" }, draw("path", { d: lines.join("") }), ...order.map((id) => dot(id, fill)), ...order.filter(told).map(label)));
  $("#legend").replaceChildren(...legend.map(([text, colour]) => make("span", { style: `--dot: ${colour ?? "transparent"}` }, text)));
  place();
  if (focused) svg.querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus();
  svg.dataset.drawn = order.length;
  svg.dataset.milliseconds = Math.round(performance.now() - begun);
}

const place = () => $("#picture")?.setAttribute("transform", `translate(${view.x},${view.y}) scale(${view.k})`);

function zoom(factor, x, y) {
  view.x = x - (x - view.x) * factor;
  view.y = y - (y - view.y) * factor;
  view.k *= factor;
  place();
}

// All of it in the window, but never larger than life.
export function fit() {
  if (!shape?.order.length) return;
  const { width, height } = $("#tree").getBoundingClientRect(), all = [...shape.places.values()];
  const right = Math.max(...all.map((one) => one.x)) + COLUMN, bottom = Math.max(...all.map((one) => one.y)) + ROW;
  view.k = Math.min(1, (width - 40) / right, (height - 40) / bottom);
  [view.x, view.y] = [20, 30];
  place();
}

function fold(id) {
  if (!id || !shape.children.has(id)) return;
  if (!folded.delete(id)) folded.add(id);
  drawTree();
}

// Arrow keys walk the tree: up and down along the rows, left to the parent, right to the first child.
function neighbour(id, key) {
  const at = shape.order.indexOf(id);
  if (key === "ArrowDown") return shape.order[at + 1];
  if (key === "ArrowUp") return shape.order[at - 1];
  if (key === "ArrowLeft") return shape.known.get(id).parent;
  return key === "ArrowRight" ? shape.kids(id)[0] : undefined;
}

function pressed(event) {
  const id = event.target.dataset.id, next = id && neighbour(id, event.key);
  if (next) $(`#tree [data-id="${CSS.escape(next)}"]`)?.focus();
  else if (id && event.key === "Enter") choose(id);
  else if (id && event.key === " ") fold(id);
  else if (event.key === "+") zoom(1.2, 200, 200);
  else if (event.key === "-") zoom(1 / 1.2, 200, 200);
  else if (event.key === "0") fit();
  else return;
  event.preventDefault();
}

export function startTree(chosen) {
  choose = chosen;
  const svg = $("#tree svg");
  let drag = null;
  svg.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15, event.offsetX, event.offsetY);
  }, { passive: false });
  svg.addEventListener("pointerdown", (event) => { drag = { x: event.clientX - view.x, y: event.clientY - view.y }; });
  svg.addEventListener("pointermove", (event) => {
    if (!drag || !event.buttons) return;
    [view.x, view.y] = [event.clientX - drag.x, event.clientY - drag.y];
    place();
  });
  svg.addEventListener("pointerup", () => { drag = null; });
  svg.addEventListener("click", (event) => { if (event.target.dataset.id) choose(event.target.dataset.id); });
  svg.addEventListener("dblclick", (event) => fold(event.target.dataset.id));
  svg.addEventListener("keydown", pressed);
  $("#fit").addEventListener("click", fit);
}
