// The run itself: how much of its budget is used, who works on what, and the log as it happens.
import { $, clock, facts, make, shown, whole } from "./dom.js";
import { state } from "./state.js";

const ENDED = ["archived", "rejected"], KEPT = 500;
const lately = new Map(); // by candidate: its newest event

// Pairs of what is used and what there is of it.
function budget(status) {
  const limits = status.settings?.budget ?? {}, spent = status.spent ?? {};
  return [
    ["candidates", status.proposals_ended ?? 0, limits.candidates, whole], ["time", spent.seconds ?? 0, limits.seconds, clock],
    ["GPU time", spent.gpu_seconds ?? 0, limits.gpu_seconds, clock], ["tokens", Number(spent.tokens ?? 0), limits.tokens && Number(limits.tokens), whole],
    ["money", spent.money ?? 0, limits.money, (value) => `$${shown(value, 2)}`],
  ];
}

function used([name, spent, limit, text]) {
  const bar = limit ? make("progress", { max: limit, value: Math.min(spent, limit), "aria-label": name }) : null;
  return [name, make("span", {}, text(spent) + (limit ? ` of ${text(limit)} ` : ""), bar)];
}

function inHand() {
  const moving = state.rows.filter((row) => !ENDED.includes(row.state));
  if (!moving.length) return [make("p", { class: "soft" }, "Nothing is in flight.")];
  const since = (id) => (lately.has(id) ? clock((Date.now() - Date.parse(lately.get(id).time)) / 1000) : "–");
  const worker = (id) => lately.get(id)?.reason ?? lately.get(id)?.service ?? "–";
  const cells = (row) => [row.id, row.name || "…", row.state, since(row.id), worker(row.id)];
  return [make("table", {}, make("thead", {}, make("tr", {}, ...["id", "name", "state", "since", "at work"].map((text) => make("th", { scope: "col" }, text)))),
    make("tbody", {}, ...moving.map((row) => make("tr", {}, ...cells(row).map((text) => make("td", {}, text))))))];
}

export function drawRun(status) {
  const counts = Object.entries(status.states ?? {}).sort();
  $("#summary").replaceChildren(
    make("h2", {}, `Run ${status.run}: ${status.phase}`), status.stop_reason ? make("p", {}, status.stop_reason) : "",
    facts([...budget(status).filter(([, spent, limit]) => spent || limit).map(used),
      ["queue", counts.filter(([name]) => !ENDED.includes(name)).map(([name, count]) => `${count} ${name}`).join(", ") || "empty"],
      ["ended", counts.filter(([name]) => ENDED.includes(name)).map(([name, count]) => `${count} ${name}`).join(", ") || "none"],
      ["dead letters", String(status.dead_letters ?? 0)]]),
    make("h2", {}, "In flight"), ...inHand(),
  );
}

// One event of the log, newest first.
export function happened(event) {
  if (event.candidate) lately.set(event.candidate, event);
  const told = [event.name, event.reason].filter(Boolean).join(": ");
  const who = event.candidate ? make("a", { href: `#${event.candidate}` }, event.candidate) : "";
  $("#log").prepend(make("li", {}, make("time", {}, event.time.slice(11, 19)), ` ${event.sequence} `, make("b", {}, event.fact), " ", who, told ? ` ${told}` : ""));
  while ($("#log").children.length > KEPT) $("#log").lastChild.remove();
}

export function silent(reason) {
  $("#log").replaceChildren(make("li", { class: "soft" }, reason));
}

export function forget() {
  lately.clear();
  $("#log").replaceChildren();
}
