// The leaderboard: sorted by any column, filtered by state, stage and name.
import { $, absent, interval, make, shown, whole } from "./dom.js";
import { matches, state } from "./state.js";

const COLUMNS = [
  ["id", "id"], ["name", "name"], ["parent", "parent"], ["stage", "stage"], ["state", "state"], ["loss", "loss", 4],
  ["loss_difference", "Δ root", 4], ["benchmark", "benchmark", 3], ["judge", "judge", 1], ["fitness", "fitness", 3],
  ["parameters", "parameters", 0], ["seconds", "seconds", 0],
];
const order = { by: "fitness", down: true };
let choose = () => {};

const cell = (row, [name, , digits]) => {
  if (typeof row[name] !== "number") return row[name] || "–";
  const text = digits ? shown(row[name], digits) : whole(row[name]);
  return name === "fitness" && interval(row) ? `${text} ${interval(row)}` : text;
};

function compared(one, other) {
  const [a, b] = [one[order.by], other[order.by]];
  if (absent(a) || absent(b)) return absent(a) - absent(b);
  const ascending = typeof a === "string" ? a.localeCompare(b) : a - b;
  return order.down ? -ascending : ascending;
}

function title([name, text]) {
  const sorted = name === order.by ? (order.down ? "descending" : "ascending") : "none";
  const turn = () => {
    order.down = order.by === name ? !order.down : true;
    order.by = name;
    drawBoard();
  };
  return make("th", { scope: "col", "aria-sort": sorted }, make("button", { onclick: turn }, text));
}

function line(row) {
  const chosen = row.id === state.chosen ? "true" : null;
  const pressed = (event) => { if (event.key === "Enter") choose(row.id); };
  return make("tr", { tabindex: 0, "aria-selected": chosen, onclick: () => choose(row.id), onkeydown: pressed },
    ...COLUMNS.map((column) => make("td", {}, cell(row, column))));
}

// The choices of a filter are what there is.
function offer(select, name) {
  const there = [...new Set(state.rows.map((row) => row[name]).filter(Boolean))].sort(), chosen = select.value;
  select.replaceChildren(make("option", { value: "" }, `any ${name}`), ...there.map((one) => make("option", {}, one)));
  select.value = there.includes(chosen) ? chosen : "";
}

export function drawBoard() {
  const [inState, inStage] = [$("#state"), $("#stage")];
  offer(inState, "state");
  offer(inStage, "stage");
  const kept = state.rows.filter((row) => matches(row) && (!inState.value || row.state === inState.value) && (!inStage.value || row.stage === inStage.value));
  $("#board thead").replaceChildren(make("tr", {}, ...COLUMNS.map(title)));
  $("#board tbody").replaceChildren(...kept.sort(compared).map(line));
  $("#counted").textContent = `${kept.length} of ${state.rows.length}`;
}

export function startBoard(chosen) {
  choose = chosen;
  $("#state").addEventListener("change", drawBoard);
  $("#stage").addEventListener("change", drawBoard);
}
