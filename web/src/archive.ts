// The data of the shown run: loaded once, then updated by the server's event stream.
import { batch, computed, effect, signal } from "@preact/signals";
import { address, go } from "./address.js";
import { parse } from "./query.js";
import type { Fact, Row, Run, Status, Training, Work } from "./records.js";

const MAX_FACTS = 400;

export const runs = signal<Run[]>([]);
export const status = signal<Status | null>(null);
export const rows = signal<Row[]>([]);
export const facts = signal<Fact[]>([]); // newest first
export const trainings = signal<Map<string, Training>>(new Map());
export const works = signal<Map<string, Work>>(new Map()); // current work that services announce, by candidate
export const problem = signal(""); // why no updates arrive; empty while they do
export const loaded = signal(false);
export const now = signal(Date.now());

export const byId = computed(() => new Map(rows.value.map((row) => [row.id, row])));
export const query = computed(() => parse(address.value.filter, rows.value));
export const filtered = computed(() => (address.value.filter ? rows.value.filter(query.value.test) : rows.value));

interface Change { epoch: string; version: number; status?: Status; rows?: Row[]; lost?: string }

let shownRun = ""; // as in the address; empty for the newest
let epoch = "", version = 0;
let source: EventSource | null = null;
let generation = 0; // of `load`: answers to earlier calls are ignored

export class RequestFailed extends Error {}

/** The server's JSON. Throws RequestFailed with the server's error message, or one about the connection. */
export async function getJson<T>(path: string, parameters: Record<string, string>): Promise<T> {
  let answer: Response;
  try {
    answer = await fetch(`${path}?${new URLSearchParams(parameters)}`);
  } catch {
    throw new RequestFailed("The page's server does not answer.");
  }
  if (!answer.ok) {
    const body = (await answer.json().catch(() => null)) as { error?: string } | null;
    throw new RequestFailed(body?.error ?? `The server answered with status ${answer.status}.`);
  }
  return (await answer.json()) as T;
}

function applyChange(change: Change): void {
  batch(() => {
    if (change.epoch !== epoch) version = 0;
    const fresh = change.rows ?? [];
    if (version === 0) {
      rows.value = fresh;
    } else if (fresh.length) {
      const known = new Map(rows.value.map((row) => [row.id, row]));
      for (const row of fresh) known.set(row.id, row);
      rows.value = [...known.values()];
    }
    epoch = change.epoch;
    version = change.version;
    if (change.status) status.value = change.status;
    problem.value = change.lost ?? "";
    loaded.value = true;
  });
}

async function load(run: string): Promise<void> {
  const ownGeneration = ++generation;
  source?.close();
  batch(() => {
    epoch = "";
    version = 0;
    loaded.value = false;
    status.value = null;
    rows.value = [];
    facts.value = [];
    trainings.value = new Map();
    works.value = new Map();
  });
  for (let wait = 500; ; wait = Math.min(8000, wait * 1.6)) {
    try {
      const table = await getJson<Change>("/api/table", { run });
      if (ownGeneration !== generation) return;
      applyChange(table);
      listen(ownGeneration, run || table.status?.run || "");
      return;
    } catch (error) {
      if (ownGeneration !== generation) return;
      problem.value = `${(error as Error).message.replace(/\.?$/, ".")} Trying again.`;
      void getJson<Run[]>("/api/runs", {}).then((listed) => { if (ownGeneration === generation) runs.value = listed; }, () => undefined);
      await new Promise((resolve) => setTimeout(resolve, wait));
      if (ownGeneration !== generation) return;
    }
  }
}

function listen(ownGeneration: number, run: string): void {
  source = new EventSource(`/events?${new URLSearchParams({ run, epoch, version: String(version) })}`);
  const on = (name: string, handler: (data: never) => void) => {
    source!.addEventListener(name, (event) => {
      if (ownGeneration === generation) handler(JSON.parse((event as MessageEvent<string>).data) as never);
    });
  };
  on("change", (change: Change) => applyChange(change));
  on("facts", (received: Fact[]) => {
    const newest = facts.value[0]?.sequence ?? 0;
    const unseen = received.filter((fact) => fact.sequence > newest).reverse();
    if (unseen.length) facts.value = [...unseen, ...facts.value].slice(0, MAX_FACTS);
  });
  on("progress", ({ trainings: received, works: announced }: { trainings: Training[]; works: Work[] }) => {
    const next = new Map<string, Training>();
    for (const training of received) {
      const key = `${training.candidate}/${training.seed}`;
      const before = trainings.value.get(key);
      const points = before && before.step <= training.step ? before.points : [];
      const last = points.at(-1)?.[0] ?? -1;
      next.set(key, { ...training, points: [...points, ...training.points.filter(([step]) => step > last)] });
    }
    trainings.value = next;
    works.value = new Map(announced.map((work) => [work.candidate, work]));
  });
  on("runs", ({ runs: received }: { runs: Run[] }) => { runs.value = received; });
  source.onerror = () => {
    if (ownGeneration !== generation) return;
    problem.value = "The connection to the page's server is lost. Trying again.";
    // The browser reconnects a broken stream, but not one that was refused while the server restarted.
    source?.close();
    setTimeout(() => { if (ownGeneration === generation) void reopen(ownGeneration, run); }, 1000);
  };
}

async function reopen(ownGeneration: number, run: string): Promise<void> {
  try {
    const table = await getJson<Change>("/api/table", { run });
    if (ownGeneration !== generation) return;
    version = 0;
    applyChange(table);
    listen(ownGeneration, run);
  } catch {
    setTimeout(() => { if (ownGeneration === generation) void reopen(ownGeneration, run); }, 1500);
  }
}

/** Show another run, without the filters and selections of the previous one. */
export function chooseRun(run: string): void {
  go({ run, candidate: "", filter: "", ticked: "", at: "", x: "", y: "", columns: "", sort: "" });
}

/** Load the run of the address, and reload whenever that changes. */
export function start(): void {
  let first = true;
  effect(() => {
    const run = address.value.run;
    if (first || run !== shownRun) {
      first = false;
      shownRun = run;
      void load(run);
    }
  });
  setInterval(() => { now.value = Date.now(); }, 1000);
}
