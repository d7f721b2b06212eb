// The overview of a run: state and budget, trainings, the best so far, the trend, queue and workers, newest events.
import { signal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { facts, filtered, now, rows, status, trainings, works } from "../archive.js";
import { isBetter, abbreviated, clock, measureOf, measuresOf, formatted, type Measure } from "../measures.js";
import { CandidateLink, Chip } from "../parts/link.js";
import { Lines, type Line } from "../parts/lines.js";
import type { Row, Status, Training, Work } from "../records.js";
import { mean, quantile } from "../statistics.js";
import { category } from "../theme.js";

const X_AXES = ["candidates", "compute", "time"] as const;
const xAxis = signal<(typeof X_AXES)[number]>("candidates");
const chosen = signal("");
const STATES = ["requested", "proposed", "training", "trained", "judged", "analysed", "archived", "rejected"];
const WAITING_FOR: Record<string, string> = {
  requested: "waits for the researcher's proposal", proposed: "waits for an engineer", training: "in training",
  trained: "waits for the judge", judged: "waits for the analyst", analysed: "waits for the archive",
};
const ENDED = ["finished", "stopped"];

export function Overview() {
  const current = status.value;
  if (!current) return null;
  return (
    <div class="overview">
      <State current={current} />
      <Trainings current={current} />
      <div class="column"><Best /><Flow current={current} /><Settings current={current} /></div>
      <div class="column"><Trend /><Events /></div>
    </div>
  );
}

function State({ current }: { current: Status }) {
  const all = rows.value;
  const scored = all.filter((row) => row.fitness !== undefined);
  const best = scored.reduce<Row | null>((top, row) => (!top || row.fitness! > top.fitness! ? row : top), null);
  const proposals = current.proposals_ended;
  const spent = current.spent;
  const over = ENDED.includes(current.phase);
  const budget = current.settings?.budget ?? {};
  const running = over || current.phase === "paused" ? 0 : Math.max(0, (now.value - Date.parse(current.changed ?? "")) / 1000 || 0);
  const seconds = (spent?.seconds ?? 0) + Math.min(running, 24 * 3600);
  const used: [string, number, number, (value: number) => string][] = [];
  if (budget.candidates) used.push(["candidates", proposals, budget.candidates, String]);
  if (budget.seconds) used.push(["wall clock", seconds, budget.seconds, clock]);
  if (budget.gpu_seconds) used.push(["GPU time", spent?.gpu_seconds ?? 0, budget.gpu_seconds, clock]);
  if (budget.tokens) used.push(["model tokens", Number(spent?.tokens ?? 0), Number(budget.tokens), abbreviated]);
  if (budget.money) used.push(["money", spent?.money ?? 0, budget.money, (value) => `$${value.toFixed(2)}`]);
  // The share of planned candidates that ended, with partial trainings; baselines count, since they take time too.
  const ended = (current.states.archived ?? 0) + (current.states.rejected ?? 0);
  const partlyTrained = [...trainings.value.values()].reduce((sum, training) => sum + (training.steps ? training.step / training.steps : 0), 0);
  const planned = (current.settings?.baselines?.length ?? 0) + Number(budget.candidates ?? 0);
  const share = Math.max(0, ...used.map(([name, have, all]) => (name === "candidates" ? (ended + partlyTrained) / planned : have / all)));
  const left = !over && share > 0.02 && share < 1 ? (seconds * (1 - share)) / share : null;
  return (
    <section class="card wide-card" aria-label="State">
      <div class="tiles">
        <Tile title="State" value={<Chip text={current.phase} />} note={[current.stop_reason || current.origin, left !== null && `about ${clock(left)} left at this pace`].filter(Boolean).join("; ")} />
        <Tile title="Candidates" value={all.length.toLocaleString("en")} note={`${scored.length.toLocaleString("en")} scored, ${(current.states.rejected ?? 0).toLocaleString("en")} rejected`} />
        <Tile title="Best" value={best ? measureOf("fitness").format(best.fitness!) : "–"} note={best ? <CandidateLink id={best.id} /> : "nothing is scored yet"} />
        {current.loss_of_root !== undefined && <Tile title="Best held-out loss" value={bestOf(all, "loss")} note={`root ${current.loss_of_root.toFixed(4)} nats per token`} />}
        {seconds > 0 && <Tile title="Wall clock" value={clock(seconds)} note={`${clock(spent?.training_seconds ?? 0)} of training`} />}
        {Number(spent?.tokens ?? 0) > 0 && <Tile title="Model tokens" value={abbreviated(Number(spent!.tokens))} note={spent!.money ? `$${spent!.money.toFixed(2)}` : "no price known"} />}
        {current.dead_letters > 0 && <Tile title="Dead letters" value={String(current.dead_letters)} note="asi-arch dead lists them" />}
      </div>
      {used.length > 0 && (
        <dl class="budget">
          {used.map(([name, have, all, text]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd><progress value={Math.min(have, all)} max={all} aria-label={`${name} used`} /> {text(have)} of {text(all)}</dd>
            </div>
          ))}
        </dl>
      )}
    </section>
  );
}

function bestOf(all: readonly Row[], key: string): string {
  const measure = measureOf(key);
  const values = all.map(measure.value).filter((value): value is number => value !== undefined);
  if (!values.length) return "–";
  return measure.format(values.reduce((a, b) => (isBetter(measure, a, b) ? a : b)));
}

function Tile({ title, value, note }: { title: string; value: preact.ComponentChildren; note?: preact.ComponentChildren }) {
  return <div class="tile"><div class="quiet">{title}</div><div class="number">{value}</div><div class="quiet small">{note}</div></div>;
}

/** The measure shown over time: the chosen one, else the first that exists. */
function shownMeasure(all: readonly Row[]): Measure | null {
  const known = measuresOf(all).filter((measure) => measure.better && measure.key !== "seconds");
  return known.find((measure) => measure.key === chosen.value) ?? known[0] ?? null;
}

function scores(all: readonly Row[], measure: Measure): { row: Row; value: number; compute: number }[] {
  let compute = 0;
  return [...all].sort((a, b) => a.number - b.number).flatMap((row) => {
    compute += row.seconds ?? 0;
    const value = measure.value(row);
    return value === undefined || row.kind === "ablation" ? [] : [{ row, value, compute: compute / 3600 }];
  });
}

function Best() {
  const all = filtered.value;
  const measure = shownMeasure(all);
  const seen = facts.value;
  const ended = useMemo(() => {
    const own = new Set(all.map((row) => row.id));
    return new Map(seen.filter((fact) => /judged|archived/.test(fact.fact) && fact.candidate && own.has(fact.candidate)).map((fact) => [fact.candidate!, Date.parse(fact.time)]));
  }, [all, seen]);
  const firstEnded = Math.min(...ended.values());
  const hasTime = Math.max(...ended.values()) > firstEnded; // all times of an imported run are equal
  const timed = xAxis.value === "time" && hasTime;
  const lines = useMemo(() => {
    if (!measure) return [];
    let best: number | null = null;
    const dots: [number, number][] = [];
    const line: [number, number][] = [];
    for (const { row, value, compute } of scores(all, measure)) {
      const x = xAxis.value === "compute" ? compute : timed ? (ended.has(row.id) ? (ended.get(row.id)! - firstEnded) / 60000 : null) : row.number;
      if (x === null) continue;
      best = best === null || isBetter(measure, value, best) ? value : best;
      dots.push([x, value]);
      line.push([x, best]);
    }
    return [
      { label: "candidates", points: dots, colour: `color-mix(in srgb, ${category(1)} ${dots.length > 300 ? 45 : 90}%, transparent)`, width: 0, dots: true },
      { label: "best so far", points: line, colour: category(0), width: 2.5, stepped: true },
    ] satisfies Line[];
  }, [all, measure, xAxis.value, timed ? ended : null]);
  const x = { candidates: "candidates in the order of the run", compute: "hours of training and evaluation", time: "minutes since the first that ended" }[xAxis.value];
  const hasCompute = all.some((row) => row.seconds);
  return (
    <section class="card" aria-label="Best so far">
      <div class="head">
        <h2>Best so far</h2>
        <div class="choices">
          <Choice label="measure" value={measure?.key ?? ""} options={measuresOf(all).filter((known) => known.better).map(({ key, label }) => [key, label])} onChange={(key) => { chosen.value = key; }} />
          <Choice label="against" value={xAxis.value} options={X_AXES.filter((axis) => axis === "candidates" || (axis === "compute" ? hasCompute : hasTime)).map((axis) => [axis, axis])} onChange={(key) => { xAxis.value = key as typeof xAxis.value; }} />
        </div>
      </div>
      {measure && lines[1]?.points.length
        ? <Lines lines={lines} x={x} y={measure.label} yText={measure.format} height={260} label={`${measure.label}, best so far against ${x}: from ${measure.format(lines[1].points[0]![1])} to ${measure.format(lines[1].points.at(-1)![1])} over ${lines[1].points.length} candidates`} />
        : <p class="empty">Nothing is measured yet.</p>}
    </section>
  );
}

export function Choice({ label, value, options, onChange }: { label: string; value: string; options: readonly (readonly [string, string])[]; onChange: (key: string) => void }) {
  return (
    <label class="choice"><span class="quiet">{label}</span>
      <select value={value} onChange={(event) => onChange(event.currentTarget.value)}>
        {options.map(([key, text]) => <option key={key} value={key}>{text}</option>)}
      </select>
    </label>
  );
}

function Trend() {
  const all = filtered.value;
  const measure = shownMeasure(all);
  const { lines, size } = useMemo(() => {
    if (!measure) return { lines: [], size: 0 };
    const points = scores(all, measure);
    const size = points.length >= 400 ? 50 : points.length >= 60 ? 10 : 5;
    const blocks: { x: number; values: number[] }[] = [];
    for (let from = 0; from + size <= points.length; from += size) {
      const part = points.slice(from, from + size);
      blocks.push({ x: part.at(-1)!.row.number, values: part.map((score) => score.value).sort((a, b) => a - b) });
    }
    return {
      size,
      lines: blocks.length < 3 ? [] : [{
        label: "mean", colour: category(2), points: blocks.map(({ x, values }) => [x, mean(values)] as [number, number]),
        band: blocks.map(({ x, values }) => [x, quantile(values, 0.1), quantile(values, 0.9)] as [number, number, number]),
      }] satisfies Line[],
    };
  }, [all, measure]);
  return (
    <section class="card" aria-label="Trend">
      <div class="head"><h2>Trend of {measure?.label ?? "the scores"}</h2></div>
      {lines.length && measure
        ? <>
            <Lines lines={lines} x="candidates in the order of the run" y={measure.label} yText={measure.format} height={260} label={`Mean ${measure.label} in blocks of ${size}: from ${measure.format(lines[0]!.points[0]![1])} to ${measure.format(lines[0]!.points.at(-1)![1])}`} />
            <p class="quiet small">Means of {size} candidates each; the band holds the middle 80 % of them.</p>
          </>
        : <p class="empty">A trend needs three blocks of five measured candidates.</p>}
    </section>
  );
}

function Trainings({ current }: { current: Status }) {
  const live = [...trainings.value.values()];
  const over = ENDED.includes(current.phase);
  if (over && !live.length) return null;
  const busy = [...works.value.values()].filter((work) => work.service === "engineer").length;
  const none = busy ? `No step is announced: engineers prepare or evaluate ${busy} ${busy === 1 ? "candidate" : "candidates"}.`
    : current.states.training ? "No engineer has announced its steps since this page listens." : "Nothing is in training.";
  return (
    <section class="card wide-card" aria-label="In training">
      <h2>In training now</h2>
      {live.length ? <div class="trainings">{live.map((training) => <LiveTraining key={`${training.candidate}/${training.seed}`} training={training} />)}</div>
        : <p class="empty">{none}</p>}
    </section>
  );
}

function LiveTraining({ training }: { training: Training }) {
  const lines = useMemo<Line[]>(() => [{ label: "training loss", points: training.points, colour: category(0) }], [training.points]);
  const last = training.points.at(-1)?.[1];
  return (
    <article class="live">
      <h3><CandidateLink id={training.candidate} /></h3>
      <progress value={training.step} max={training.steps} aria-label="steps" />
      <p class="quiet small">
        step {training.step} of {training.steps} · loss {last?.toFixed(3) ?? "–"} · {abbreviated(training.tokens_per_second)} tokens/s · seed {training.seed}
        {training.seconds_left > 0 && ` · ${clock(training.seconds_left)} left`}
      </p>
      {training.points.length > 1 && <Lines lines={lines} x="step" y="loss" height={120} label={`Training loss of ${training.candidate}, now ${last?.toFixed(3)}`} />}
    </article>
  );
}

function Flow({ current }: { current: Status }) {
  const moving = rows.value.filter((row) => !["archived", "rejected", "unspecified"].includes(row.state));
  const latest = new Map<string, number>();
  for (const fact of facts.value) {
    if (fact.candidate && !latest.has(fact.candidate)) latest.set(fact.candidate, Date.parse(fact.time));
  }
  const workers = new Map<string, Row[]>();
  for (const row of rows.value) if (row.worker) workers.set(row.worker, [...(workers.get(row.worker) ?? []), row]);
  return (
    <section class="card" aria-label="Queue and workers">
      <h2>Queue and workers</h2>
      <ul class="states">
        {STATES.map((state) => <li key={state} class={current.states[state] ? "" : "none"}><span class="number small">{current.states[state] ?? 0}</span> {state}</li>)}
        {current.climbing > 0 && !ENDED.includes(current.phase) && <li><span class="number small">{current.climbing}</span> in second trainings</li>}
      </ul>
      {moving.length > 0 && (
        <ul class="plain">
          {moving.slice(0, 12).map((row) => (
            <li key={row.id}>
              <CandidateLink id={row.id} /> {works.value.has(row.id) ? announced(works.value.get(row.id)!) : WAITING_FOR[row.state] ?? row.state}
              {!works.value.has(row.id) && latest.has(row.id) && <span class="quiet">, {clock((now.value - latest.get(row.id)!) / 1000)}</span>}
            </li>
          ))}
          {moving.length > 12 && <li class="quiet">and {moving.length - 12} more</li>}
        </ul>
      )}
      {workers.size > 0 && (
        <table class="small">
          <thead><tr><th scope="col">worker</th><th scope="col" class="num">trained</th><th scope="col" class="num">time</th></tr></thead>
          <tbody>
            {[...workers].map(([name, done]) => (
              <tr key={name}><td>{name}</td><td class="num">{done.length}</td><td class="num">{clock(done.reduce((sum, row) => sum + (row.seconds ?? 0), 0))}</td></tr>
            ))}
          </tbody>
        </table>
      )}
    </section>
  );
}

/** As in "judge waits for the model, 0:45, attempt 2". */
function announced(work: Work): string {
  const activity = work.waits_for ? `waits for ${work.waits_for}` : "works";
  return `${work.service} ${activity}, ${clock(now.value / 1000 - work.since)}${work.attempt > 1 ? `, attempt ${work.attempt}` : ""}`;
}

function Events() {
  const known = facts.value;
  const newest = [...rows.value].sort((a, b) => b.number - a.number).slice(0, 12);
  return (
    <section class="card" aria-label="Newest events">
      <h2>{known.length ? "Newest events" : "Newest candidates"}</h2>
      {known.length ? (
        <ol class="log" tabIndex={0} aria-label="Events, newest first">
          {known.map((fact) => (
            <li key={fact.sequence}>
              <time class="quiet" dateTime={fact.time}>{new Date(fact.time).toLocaleTimeString("en-GB")}</time>{" "}
              {fact.candidate && <CandidateLink id={fact.candidate} name={fact.name ?? undefined} />} {fact.fact.replace(/^candidate\./, "")}
              <span class="quiet">{detailOf(fact)}</span>
            </li>
          ))}
        </ol>
      ) : (
        <ol class="log" tabIndex={0} aria-label="Candidates, newest first">
          {newest.map((row) => <li key={row.id}><CandidateLink id={row.id} /> {row.state}<span class="quiet">{row.fitness !== undefined ? `, fitness ${formatted(measureOf("fitness"), row)}` : ""}</span></li>)}
        </ol>
      )}
    </section>
  );
}

function detailOf(fact: { fact: string; reason: string | null; loss: number | null; judge: number | null; fitness: number | null }): string {
  if (fact.reason) return `: ${fact.reason}`;
  if (fact.fact === "candidate.trained" && fact.loss !== null) return `: loss ${fact.loss.toFixed(4)}`;
  if (/judged|archived|rescored/.test(fact.fact) && fact.fitness !== null) return `: fitness ${fact.fitness.toFixed(3)}`;
  return "";
}

function Settings({ current }: { current: Status }) {
  const settings = current.settings;
  if (!settings) return null;
  const overrides = Object.entries(settings.scale_overrides ?? {}).map(([key, value]) => `${key}=${value}`).join(", ");
  const known: [string, string | number | undefined][] = [
    ["scale", settings.scale + (overrides ? ` (${overrides})` : "")], ["mind", settings.mind], ["seats", settings.seats], ["seed", settings.seed],
    ["seeds per candidate", settings.candidate_seeds], ["baselines", settings.baselines.join(", ")], ["fitness", settings.fitness],
    ["pool", settings.pool ? `${settings.pool.size}, parents from the best ${settings.pool.parents}` : ""],
    ["parents", settings.parent_policy], ["promotion", settings.promotion], ["events", current.events], ["origin", current.origin],
  ];
  return (
    <section class="card" aria-label="Settings">
      <h2>Settings</h2>
      <dl class="pairs">{known.filter(([, value]) => value).map(([name, value]) => <><dt>{name}</dt><dd>{value}</dd></>)}</dl>
    </section>
  );
}
