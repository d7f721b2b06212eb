// One candidate, or two beside each other.
import { $, absent, facts, get, interval, make, shown, whole } from "./dom.js";
import { curve } from "./curve.js";
import { difference, program } from "./code.js";
import { state } from "./state.js";

const PARTS = [["design_evaluation", "Design"], ["results", "Results"], ["expectation", "Expectation against reality"], ["explanation", "Explanation"], ["synthesis", "What to do next"]];
const COLOURS = ["#2563a8", "#c2541b", "#9aa5b1"];
const section = (title, ...content) => make("section", {}, make("h3", {}, title), ...content);
const prose = (title, text) => (text ? section(title, make("p", { class: "prose" }, text)) : null);
const link = (id, text) => make("a", { href: `#${id}` }, text ?? id);
const separated = (links) => links.flatMap((one, place) => (place ? [" · ", one] : [one]));

function measured({ row, record, path }) {
  const usage = record.training?.seeds?.[0]?.measurements ?? {};
  return facts([
    ["state", row.state + (row.reason ? `: ${row.reason}` : "")],
    ["path", make("span", {}, ...separated(path.map((id) => link(id))))],
    ["fitness", `${shown(row.fitness)} ${interval(row)}`], ["loss", shown(row.loss)], ["benchmark", shown(row.benchmark, 3)],
    ["judge", shown(row.judge, 1)], ["parameters", whole(row.parameters)], ["tokens/s", whole(usage.tokens_per_second)],
    ["device", usage.device_name ?? usage.device ?? "–"], ["components", (record.proposal?.components ?? []).join(", ") || "–"],
  ]);
}

const scores = (record) => {
  const known = record.training?.seeds?.[0]?.scores ?? [];
  return known.length ? section("Scores", facts(known.map((one) => [one.task, `${shown(one.value ?? 0, 3)} ± ${shown(one.stderr, 3)}`]))) : null;
};
const checked = (record) => {
  const known = record.proposal?.check?.verdicts ?? [];
  return known.length ? section("Check", facts(known.map((one) => [make("span", { class: one.outcome }, `${one.outcome} ${one.probe}`), one.message ?? ""]))) : null;
};
const cognition = (record) => {
  const hits = record.analysis?.cognition ?? record.proposal?.cognition ?? [];
  return hits.length ? section("Cognition", make("p", {}, hits.map((hit) => hit.title).join(" · "))) : null;
};
const events = (chain) => section("Events", facts(chain.map((one) => [`${one.sequence}`, `${one.id} · ${one.time.slice(11, 19)} · ${one.sha256.slice(0, 12)}${one.accepted ? "" : " · refused"}`])));

// Another candidate to compare with: typed or chosen, by id.
function comparing(id) {
  const input = make("input", { list: "others", placeholder: "id of another", "aria-label": "compare with", size: 14 });
  const go = (event) => {
    event.preventDefault();
    if (input.value) location.hash = `${id}..${input.value.split(" ")[0]}`;
  };
  const others = state.rows.filter((row) => row.id !== id).slice(0, 500);
  return make("form", { onsubmit: go, class: "compare" }, input, make("datalist", { id: "others" }, ...others.map((row) => make("option", { value: row.id }, row.name))), make("button", {}, "Compare"));
}

async function one(id) {
  const found = await get("/api/candidate", { run: state.run, id });
  const { record, row, parent, root, children, chain, difference: changed } = found;
  return [
    make("h2", {}, row.name || id), make("p", { class: "soft" }, `${id} · ${row.kind} · ${row.stage}`), comparing(id),
    measured(found), prose("Motivation", record.proposal?.motivation),
    section("Training loss", curve([[record, COLOURS[0], row.name], [parent, COLOURS[1], "parent"], [root[0], COLOURS[2], "root"]])),
    scores(record), prose("Verdict", record.verdict?.justification),
    ...PARTS.map(([name, title]) => prose(title, record.analysis?.[name])), cognition(record), checked(record),
    children.length ? section("Children", make("p", {}, ...separated(children.map((child) => link(child.id, child.name || child.id))))) : null,
    changed ? section("Difference to the parent", difference(changed)) : null,
    record.proposal?.program ? section("Program", program(record.training?.program || record.proposal.program)) : null,
    events(chain),
  ];
}

const MEASURES = [["loss", 4], ["benchmark", 3], ["judge", 1], ["fitness", 4], ["parameters", 0], ["seconds", 0]];

async function two(a, b) {
  const found = await get("/api/compare", { run: state.run, a, b });
  const rows = [found.a, found.b], name = (row) => row.name || row.id;
  const cell = (row, [measure, digits]) => (absent(row[measure]) ? "–" : digits ? shown(row[measure], digits) : whole(row[measure])) + (measure === "fitness" ? ` ${interval(row)}` : "");
  return [
    make("h2", {}, `${name(found.a)} against ${name(found.b)}`),
    make("table", {}, make("thead", {}, make("tr", {}, make("th", {}), ...rows.map((row) => make("th", { scope: "col" }, link(row.id))))),
      make("tbody", {}, ...MEASURES.map((measure) => make("tr", {}, make("th", { scope: "row" }, measure[0]), ...rows.map((row) => make("td", {}, cell(row, measure))))))),
    section("Training loss", curve(found.records.map((record, place) => [record, COLOURS[place], name(rows[place])]))),
    section("Difference of the programs", found.difference ? difference(found.difference) : make("p", { class: "soft" }, "None.")),
  ];
}

// What is asked for: "c000007", or "c000007..c000009" for both. Text of candidates reaches the page as text only.
export async function show(asked) {
  const panel = $("#candidate"), [a, b] = asked.split("..");
  panel.setAttribute("aria-busy", "true");
  try {
    panel.replaceChildren(...(b ? await two(a, b) : await one(a)).filter(Boolean));
  } catch (error) {
    panel.replaceChildren(make("p", {}, `${asked}: ${error.message}`));
  }
  panel.removeAttribute("aria-busy");
  panel.scrollTop = 0;
  if (matchMedia("(max-width: 800px)").matches) panel.scrollIntoView();
}
