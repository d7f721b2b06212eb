// The page: everything a candidate wrote is put in as text, never as markup.
const $ = (selector) => document.querySelector(selector);
const SVG = "http://www.w3.org/2000/svg";
const state = { run: "", nodes: [], rows: [], chosen: "", sort: "fitness", down: true, view: { x: 40, y: 40, k: 1 }, folded: new Set() };

const get = async (path, query = {}) => {
  const answer = await fetch(`${path}?${new URLSearchParams(query)}`);
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error);
  return value;
};

function make(kind, attributes = {}, ...children) {
  const node = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function draw(kind, attributes = {}) {
  const node = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

const shown = (value, digits = 4) => (value === null || value === undefined ? "–" : Number(value).toFixed(digits));

// ---- tree ------------------------------------------------------------------------------------------------------

function layout(nodes) {
  const known = new Map(nodes.map((node) => [node.id, node]));
  const children = new Map();
  for (const node of nodes) {
    const parent = known.has(node.parent) ? node.parent : "";
    if (!children.has(parent)) children.set(parent, []);
    children.get(parent).push(node.id);
  }
  const places = new Map();
  let row = 0;
  const order = [];
  const waiting = [...(children.get("") ?? [])].reverse().map((id) => [id, 0]);
  while (waiting.length) {
    const [id, depth] = waiting.pop();
    places.set(id, { depth, row: null });
    order.push(id);
    if (!state.folded.has(id)) for (const kid of [...(children.get(id) ?? [])].reverse()) waiting.push([kid, depth + 1]);
  }
  const open = (id) => (state.folded.has(id) ? [] : children.get(id) ?? []);
  for (const id of order) if (!open(id).length) places.get(id).row = row++;
  for (const id of [...order].reverse()) {
    const kids = open(id);
    if (kids.length) places.get(id).row = kids.reduce((sum, kid) => sum + places.get(kid).row, 0) / kids.length;
  }
  return { places, children, order, known };
}

const STATES = { archived: "#2f8132", rejected: "#b3362b", training: "#d99a1c" };
const ramp = (share) => `hsl(${260 - 200 * share} 65% ${38 + 18 * share}%)`;

function colours() {
  const how = $("#colour").value;
  if (how === "state") return (node) => STATES[node.state] ?? "#9aa5b1";
  const value = (node) => (how === "age" ? state.nodes.indexOf(node) : how === "loss" ? node.loss === null ? null : -node.loss : node.fitness);
  const known = state.nodes.map(value).filter((one) => one !== null);
  const low = Math.min(...known), high = Math.max(...known);
  return (node) => (value(node) === null ? null : ramp(high > low ? (value(node) - low) / (high - low) : 1));
}

function drawTree() {
  const begun = performance.now();
  const svg = $("#tree svg");
  const { places, children, order, known } = layout(state.nodes);
  const x = (id) => places.get(id).depth * 240, y = (id) => places.get(id).row * 22;
  const picture = draw("g", { id: "picture" });
  const lines = [], fill = colours(), named = order.length <= 400, wanted = $("#find").value.toLowerCase();
  for (const id of order) {
    const parent = known.get(id).parent;
    if (places.has(parent)) {
      const middle = (x(parent) + x(id)) / 2;
      lines.push(`M${x(parent)},${y(parent)}C${middle},${y(parent)} ${middle},${y(id)} ${x(id)},${y(id)}`);
    }
  }
  picture.append(draw("path", { d: lines.join("") }));
  for (const id of order) {
    const node = known.get(id), colour = fill(node);
    const found = wanted && (node.name.toLowerCase().includes(wanted) || id.includes(wanted));
    const dot = draw("circle", { cx: x(id), cy: y(id), r: state.folded.has(id) ? 9 : 6, tabindex: 0, role: "button", "data-id": id,
      class: `${colour ? "" : "unknown"} ${id === state.chosen ? "chosen" : ""} ${found ? "found" : ""}` });
    if (colour) dot.style.fill = colour;
    dot.setAttribute("aria-label", `${node.name || id}, ${node.state}, fitness ${shown(node.fitness, 3)}`);
    picture.append(dot);
    if (named || found || id === state.chosen) {
      const label = draw("text", { x: x(id) + 10, y: y(id) + 4 });
      label.textContent = (node.name || id) + (state.folded.has(id) ? ` (+${(children.get(id) ?? []).length})` : "");
      picture.append(label);
    }
  }
  svg.replaceChildren(picture);
  place();
  svg.dataset.drawn = order.length;
  svg.dataset.milliseconds = Math.round(performance.now() - begun);
}

const place = () => $("#picture")?.setAttribute("transform", `translate(${state.view.x},${state.view.y}) scale(${state.view.k})`);

function zoom(factor, cx, cy) {
  const view = state.view;
  view.x = cx - (cx - view.x) * factor;
  view.y = cy - (cy - view.y) * factor;
  view.k *= factor;
  place();
}

function treeEvents() {
  const svg = $("#tree svg");
  let drag = null;
  svg.addEventListener("wheel", (event) => { event.preventDefault(); zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15, event.offsetX, event.offsetY); }, { passive: false });
  svg.addEventListener("pointerdown", (event) => { drag = { x: event.clientX - state.view.x, y: event.clientY - state.view.y }; });
  svg.addEventListener("pointermove", (event) => { if (drag && event.buttons) { state.view.x = event.clientX - drag.x; state.view.y = event.clientY - drag.y; place(); } });
  svg.addEventListener("pointerup", () => { drag = null; });
  svg.addEventListener("click", (event) => { if (event.target.dataset.id) open(event.target.dataset.id); });
  svg.addEventListener("dblclick", (event) => fold(event.target.dataset.id));
  svg.addEventListener("keydown", (event) => {
    const id = event.target.dataset.id;
    if (id && event.key === "Enter") open(id);
    if (id && event.key === " ") { event.preventDefault(); fold(id); }
    if (event.key === "+") zoom(1.2, 200, 200);
    if (event.key === "-") zoom(1 / 1.2, 200, 200);
  });
}

function fold(id) {
  if (!id) return;
  state.folded.has(id) ? state.folded.delete(id) : state.folded.add(id);
  drawTree();
}

// ---- leaderboard -----------------------------------------------------------------------------------------------

const COLUMNS = [["id", 0], ["name", 0], ["state", 0], ["loss", 4], ["loss_difference", 4], ["benchmark", 3], ["judge", 1], ["fitness", 3], ["parameters", 0], ["seconds", 0]];

// A number as the board shows it; the fitness with its 95 % interval, where it has one.
function cell(row, name, digits) {
  if (typeof row[name] !== "number") return row[name] || "–";
  const text = digits ? shown(row[name], digits) : Math.round(row[name]).toLocaleString("en");
  return name === "fitness" && row.fitness_low !== null ? `${text} [${shown(row.fitness_low, digits)}, ${shown(row.fitness_high, digits)}]` : text;
}

function drawBoard() {
  const head = make("tr", {}, ...COLUMNS.map(([name]) => make("th", { scope: "col", "aria-sort": name === state.sort ? (state.down ? "descending" : "ascending") : "none" },
    make("button", { onclick: () => { state.down = state.sort === name ? !state.down : true; state.sort = name; drawBoard(); } }, name.replace("loss_difference", "Δ root")))));
  const wanted = $("#find").value.toLowerCase();
  const rows = state.rows.filter((row) => !wanted || `${row.name} ${row.id} ${row.state}`.toLowerCase().includes(wanted));
  rows.sort((a, b) => {
    const [one, two] = [a[state.sort], b[state.sort]];
    if (one === null || two === null) return (one === null) - (two === null);
    const order = typeof one === "string" ? one.localeCompare(two) : one - two;
    return state.down ? -order : order;
  });
  $("#board thead").replaceChildren(head);
  $("#board tbody").replaceChildren(...rows.map((row) => make("tr", { tabindex: 0, onclick: () => open(row.id), onkeydown: (event) => event.key === "Enter" && open(row.id) },
    ...COLUMNS.map(([name, digits]) => make("td", {}, cell(row, name, digits))))));
}

// ---- one candidate ---------------------------------------------------------------------------------------------

const PARTS = [["design_evaluation", "Design"], ["results", "Results"], ["expectation", "Expectation against reality"], ["explanation", "Explanation"], ["synthesis", "What to do next"]];
const WORDS = /\b(import|from|class|def|return|for|in|if|else|None|True|False|self|with|as|while|not|and|or|lambda)\b/g;

function program(text) {
  const pre = make("pre");
  for (const line of text.split("\n")) {
    const comment = line.trimStart().startsWith("#");
    if (comment) pre.append(make("span", { class: "com" }, line));
    else {
      let last = 0;
      for (const match of line.matchAll(WORDS)) {
        pre.append(line.slice(last, match.index), make("span", { class: "kw" }, match[0]));
        last = match.index + match[0].length;
      }
      pre.append(line.slice(last));
    }
    pre.append("\n");
  }
  return pre;
}

const difference = (text) => make("pre", {}, ...text.split("\n").map((line) => make("span", { class: line[0] === "+" ? "add" : line[0] === "-" ? "del" : "" }, `${line}\n`)));

function curve(records) {
  const lines = records.filter(([record]) => record?.training?.seeds?.length).map(([record, colour, name]) =>
    [record.training.seeds[0].curve?.filter((point) => point.train_loss !== undefined).map((point) => [point.step ?? 0, point.train_loss]) ?? [], colour, name]).filter(([points]) => points.length > 1);
  if (!lines.length) return make("p", { class: "soft" }, "No curve was recorded.");
  const all = lines.flatMap(([points]) => points.slice(Math.floor(points.length / 8)));
  const [left, right] = [0, Math.max(...all.map(([step]) => step))];
  const [low, high] = [Math.min(...all.map(([, loss]) => loss)), Math.max(...all.map(([, loss]) => loss))];
  const svg = draw("svg", { class: "curve", viewBox: "0 0 400 140", role: "img", "aria-label": `training loss from ${shown(high, 2)} to ${shown(low, 2)}` });
  lines.forEach(([points, colour, name], place) => {
    svg.append(draw("polyline", { fill: "none", stroke: colour, "stroke-width": 2, points: points.map(([step, loss]) => `${(400 * (step - left)) / (right - left)},${135 - (130 * (loss - low)) / (high - low || 1)}`).join(" ") }));
    const label = draw("text", { x: 395, y: 14 + 14 * place, "text-anchor": "end", fill: colour, "font-size": 11 });
    label.textContent = name;
    svg.append(label);
  });
  return svg;
}

async function open(id) {
  state.chosen = id;
  const panel = $("#candidate");
  try {
    const { record, row, parent, root, path, children, chain, difference: changed } = await get("/api/candidate", { run: state.run, id });
    const facts = [["state", row.state + (row.reason ? `: ${row.reason}` : "")], ["parent", row.parent ?? "–"], ["path", path.join(" → ")],
      ["fitness", shown(row.fitness) + (row.fitness_low === null ? "" : ` [${shown(row.fitness_low)}, ${shown(row.fitness_high)}]`)], ["loss", shown(row.loss)], ["benchmark", shown(row.benchmark, 3)],
      ["judge", shown(row.judge, 1)], ["parameters", row.parameters?.toLocaleString("en") ?? "–"], ["components", (record.proposal?.components ?? []).join(", ") || "–"]];
    const scores = record.training?.seeds?.[0]?.scores ?? [];
    const check = record.proposal?.check?.verdicts ?? [];
    const section = (title, ...content) => [make("h3", {}, title), ...content];
    panel.replaceChildren(
      make("h2", {}, row.name || id), make("p", { class: "soft" }, `${id} · ${row.kind} · ${row.stage}`),
      make("dl", {}, ...facts.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)])),
      ...(record.proposal?.motivation ? section("Motivation", make("p", {}, record.proposal.motivation)) : []),
      ...section("Training loss", curve([[record, "#2563a8", row.name], [parent, "#c2541b", "parent"], [root[0], "#9aa5b1", "root"]])),
      ...(scores.length ? section("Scores", make("dl", {}, ...scores.flatMap((one) => [make("dt", {}, one.task), make("dd", {}, `${shown(one.value, 3)} ± ${shown(one.stderr, 3)}`)]))) : []),
      ...(record.verdict?.justification ? section("Verdict", make("p", {}, record.verdict.justification)) : []),
      ...PARTS.filter(([name]) => record.analysis?.[name]).flatMap(([name, title]) => section(title, make("p", {}, record.analysis[name]))),
      ...(record.analysis?.cognition ? section("Cognition", make("p", {}, record.analysis.cognition.map((hit) => hit.title).join(" · "))) : []),
      ...(check.length ? section("Check", make("dl", {}, ...check.flatMap((one) => [make("dt", {}, `${one.outcome} ${one.probe}`), make("dd", {}, one.message)]))) : []),
      ...(children.length ? section("Children", make("p", {}, children.map((one) => `${one.name} (${one.id})`).join(", "))) : []),
      ...(changed ? section("Difference to the parent", difference(changed)) : []),
      ...(record.proposal?.program ? section("Program", program(record.training?.program || record.proposal.program)) : []),
      ...section("Events", make("dl", {}, ...chain.flatMap((one) => [make("dt", {}, `${one.sequence}`), make("dd", {}, `${one.id} ${one.sha256.slice(0, 12)}${one.accepted ? "" : " refused"}`)]))),
    );
  } catch (error) {
    panel.replaceChildren(make("p", {}, `${id}: ${error.message}`));
  }
  history.replaceState(null, "", `#${id}`);
  panel.focus();
  drawTree();
}

// ---- the run ---------------------------------------------------------------------------------------------------

let source = null;
let refreshing = null;

async function refresh() {
  [state.nodes, state.rows] = await Promise.all([get("/api/tree", { run: state.run }), get("/api/candidates", { run: state.run })]);
  drawTree();
  drawBoard();
}

function tell(status) {
  const counts = Object.entries(status.states ?? {}).sort().map(([name, count]) => `${count} ${name}`).join(", ");
  const minutes = ((status.spent?.seconds ?? 0) / 60).toFixed(1);
  $("#status").textContent = `${status.phase} · ${counts || "no candidates yet"} · ${minutes} min · ${status.sequence ?? 0} events`;
}

function follow(run) {
  state.run = run;
  source?.close();
  source = new EventSource(`/events?${new URLSearchParams({ run })}`);
  source.onmessage = (event) => {
    tell(JSON.parse(event.data));
    clearTimeout(refreshing);
    refreshing = setTimeout(refresh, 150);
  };
  refresh();
}

function view(tree) {
  $("#tree").hidden = !tree;
  $("#board").hidden = tree;
  $("#show-tree").setAttribute("aria-pressed", tree);
  $("#show-board").setAttribute("aria-pressed", !tree);
}

async function start() {
  const runs = await get("/api/runs");
  $("#run").append(...runs.map((one) => make("option", { value: one.run }, `${one.run} (${one.phase})`)));
  $("#run").addEventListener("change", () => follow($("#run").value));
  $("#colour").addEventListener("change", drawTree);
  $("#find").addEventListener("input", () => { drawTree(); drawBoard(); });
  $("#show-tree").addEventListener("click", () => view(true));
  $("#show-board").addEventListener("click", () => view(false));
  treeEvents();
  if (runs.length) {
    follow(runs[0].run);
    if (location.hash) open(decodeURIComponent(location.hash.slice(1)));
  }
  else $("#status").textContent = "no run yet";
}

start();
