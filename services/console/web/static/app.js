// The page, put together: one run is followed; a view, and a candidate or two, are looked at.
import { $, get, make } from "./dom.js";
import { drawBoard, startBoard } from "./board.js";
import { show } from "./candidate.js";
import { drawRun, forget, happened, silent } from "./run.js";
import { drawTree, fit, startTree } from "./tree.js";
import { state } from "./state.js";

const VIEWS = ["tree", "board", "run-view"];
let sources = [], refreshing = null, status = null;

async function refresh() {
  const query = { run: state.run };
  [state.nodes, state.rows] = await Promise.all([get("/api/tree", query), get("/api/candidates", query)]);
  state.byId = new Map(state.rows.map((row) => [row.id, row]));
  drawAll();
}

function drawAll() {
  drawTree();
  drawBoard();
  if (status) drawRun(status);
}

function tell(news) {
  status = news;
  const counts = Object.entries(news.states ?? {}).sort().map(([name, count]) => `${count} ${name}`).join(", ");
  $("#status").textContent = `${news.phase} · ${counts || "no candidates yet"} · ${((news.spent?.seconds ?? 0) / 60).toFixed(1)} min · ${news.sequence ?? 0} events`;
  drawRun(news);
  clearTimeout(refreshing);
  refreshing = setTimeout(refresh, 150);
}

function follow(run) {
  state.run = run;
  for (const source of sources) source.close();
  forget();
  const query = new URLSearchParams({ run }), changes = new EventSource(`/events?${query}`), log = new EventSource(`/log?${query}`);
  changes.onmessage = (event) => tell(JSON.parse(event.data));
  log.onmessage = (event) => happened(JSON.parse(event.data));
  log.onerror = () => { if (log.readyState === EventSource.CLOSED) silent("The log is shown while the laboratory runs."); };
  sources = [changes, log];
  refresh().then(fit);
}

function view(name) {
  for (const one of VIEWS) {
    $(`#${one}`).hidden = one !== name;
    $(`[data-view="${one}"]`).setAttribute("aria-pressed", one === name);
  }
  if (name === "tree") fit();
}

function look() {
  const asked = decodeURIComponent(location.hash.slice(1));
  if (!asked) return;
  state.chosen = asked.split("..")[0];
  drawAll();
  show(asked);
}

const choose = (id) => { location.hash = id; };

async function start() {
  const runs = await get("/api/runs");
  $("#run").append(...runs.map((one) => make("option", { value: one.run }, `${one.run} (${one.phase})`)));
  $("#run").addEventListener("change", () => follow($("#run").value));
  $("#colour").addEventListener("change", drawTree);
  $("#find").addEventListener("input", () => { state.find = $("#find").value.toLowerCase(); drawTree(); drawBoard(); });
  for (const button of document.querySelectorAll("[data-view]")) button.addEventListener("click", () => view(button.dataset.view));
  addEventListener("hashchange", look);
  startTree(choose);
  startBoard(choose);
  view(VIEWS.includes(new URLSearchParams(location.search).get("view")) ? new URLSearchParams(location.search).get("view") : "tree");
  if (!runs.length) { $("#status").textContent = "no run yet"; return; }
  follow(runs[0].run);
  look();
}

start();
