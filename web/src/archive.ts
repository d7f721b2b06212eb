// The run that is shown, kept current: rows and status once, then what changes, as the server tells it.
import { batch, computed, effect, signal } from "@preact/signals";
import { address, go } from "./address.js";
import { parse } from "./query.js";
import type { Fact, Row, Run, Status, Training, Work } from "./records.js";

const MOST_FACTS = 400;

export const runs = signal<Run[]>([]);
export const status = signal<Status | null>(null);
export const rows = signal<Row[]>([]);
export const facts = signal<Fact[]>([]); // newest first
export const trainings = signal<Map<string, Training>>(new Map());
export const works = signal<Map<string, Work>>(new Map()); // what services announce, by candidate
export const trouble = signal(""); // why nothing new arrives; empty while it does
export const loaded = signal(false);
export const now = signal(Date.now());

export const byId = computed(() => new Map(rows.value.map((row) => [row.id, row])));
export const query = computed(() => parse(address.value.filter, rows.value));
export const filtered = computed(() => (address.value.filter ? rows.value.filter(query.value.test) : rows.value));

interface Change { epoch: string; version: number; status?: Status; rows?: Row[]; lost?: string }

let shownRun = ""; // as the address has it: empty means the newest
let epoch = "", version = 0;
let source: EventSource | null = null;
let generation = 0;

export class Refused extends Error {}

/** JSON of the server. Throws Refused with its sentence, or with one about the connection. */
export async function ask<T>(path: string, parameters: Record<string, string>): Promise<T> {
  let answer: Response;
  try {
    answer = await fetch(`${path}?${new URLSearchParams(parameters)}`);
  } catch {
    throw new Refused("The page's server does not answer.");
  }
  if (!answer.ok) {
    const body = (await answer.json().catch(() => null)) as { error?: string } | null;
    throw new Refused(body?.error ?? `The server answered with status ${answer.status}.`);
  }
  return (await answer.json()) as T;
}

function take(change: Change): void {
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
    trouble.value = change.lost ?? "";
    loaded.value = true;
  });
}

async function load(run: string): Promise<void> {
  const mine = ++generation;
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
      const whole = await ask<Change>("/api/table", { run });
      if (mine !== generation) return;
      take(whole);
      listen(mine, run || whole.status?.run || "");
      return;
    } catch (error) {
      if (mine !== generation) return;
      trouble.value = `${(error as Error).message} Trying again.`;
      await new Promise((resolve) => setTimeout(resolve, wait));
      if (mine !== generation) return;
    }
  }
}

function listen(mine: number, run: string): void {
  source = new EventSource(`/events?${new URLSearchParams({ run, epoch, version: String(version) })}`);
  const on = (name: string, handler: (data: never) => void) => {
    source!.addEventListener(name, (event) => {
      if (mine === generation) handler(JSON.parse((event as MessageEvent<string>).data) as never);
    });
  };
  on("change", (change: Change) => take(change));
  on("facts", (fresh: Fact[]) => {
    const last = facts.value[0]?.sequence ?? 0;
    const unseen = fresh.filter((fact) => fact.sequence > last).reverse();
    if (unseen.length) facts.value = [...unseen, ...facts.value].slice(0, MOST_FACTS);
  });
  on("progress", ({ trainings: told, works: announced }: { trainings: Training[]; works: Work[] }) => {
    const next = new Map<string, Training>();
    for (const one of told) {
      const key = `${one.candidate}/${one.seed}`;
      const before = trainings.value.get(key);
      const points = before && before.step <= one.step ? before.points : [];
      const last = points.at(-1)?.[0] ?? -1;
      next.set(key, { ...one, points: [...points, ...one.points.filter(([step]) => step > last)] });
    }
    trainings.value = next;
    works.value = new Map(announced.map((one) => [one.candidate, one]));
  });
  on("runs", ({ runs: told }: { runs: Run[] }) => { runs.value = told; });
  source.onerror = () => {
    if (mine !== generation) return;
    trouble.value = "The connection to the page's server is lost. Trying again.";
    // The browser reopens a stream that broke off, but not one that was refused while the server started again.
    source?.close();
    setTimeout(() => { if (mine === generation) void reopen(mine, run); }, 1000);
  };
}

async function reopen(mine: number, run: string): Promise<void> {
  try {
    const whole = await ask<Change>("/api/table", { run });
    if (mine !== generation) return;
    version = 0;
    take(whole);
    listen(mine, run);
  } catch {
    setTimeout(() => { if (mine === generation) void reopen(mine, run); }, 1500);
  }
}

/** Show another run, with nothing of the one before. */
export function chooseRun(run: string): void {
  go({ run, candidate: "", filter: "", ticked: "", at: "", x: "", y: "", columns: "", sort: "" });
}

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
