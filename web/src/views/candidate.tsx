// The panel of one candidate (changes against its parent, measures, evidence), or the comparison of two.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { address, go } from "../address.js";
import { getJson, byId, rows, status } from "../archive.js";
import { pathFromRoot } from "../lineage.js";
import { measuresOf, formatted, type Measure } from "../measures.js";
import { Diff } from "../parts/diff.js";
import { GainBar } from "../parts/interval.js";
import { CandidateLink, Chip } from "../parts/link.js";
import { Lines, type Line } from "../parts/lines.js";
import { Code, Markdown } from "../parts/text.js";
import type { CandidateAnswer, CandidateRecord, Curve, Difference, Idea, Row } from "../records.js";
import { category } from "../theme.js";
import { Calls, Chain, Checks, Finding, Revisions } from "./evidence.js";

export const programOf = (record: CandidateRecord) => record.training?.program || record.proposal?.program || "";

/** The server's answer to a request; requested again whenever `version` changes. */
function useJson<T>(path: string, parameters: Record<string, string>, version: string): { answer: T | null; problem: string } {
  const key = path + JSON.stringify(parameters);
  const [state, setState] = useState<{ key: string; answer: T | null; problem: string }>({ key: "", answer: null, problem: "" });
  useEffect(() => {
    let active = true;
    getJson<T>(path, parameters)
      .then((answer) => active && setState({ key, answer, problem: "" }))
      .catch((error: Error) => active && setState({ key, answer: null, problem: error.message }));
    return () => { active = false; };
  }, [key, version]);
  return state.key === key ? state : { answer: null, problem: "" };
}

export function CandidatePanel() {
  const { candidate } = address.value;
  const [first, second] = candidate.split("..");
  const panel = useRef<HTMLElement>(null);
  const [wide, setWide] = useState(false);
  useEffect(() => {
    const watch = new ResizeObserver(() => setWide(panel.current!.clientWidth >= 820));
    watch.observe(panel.current!);
    return () => watch.disconnect();
  }, []);
  useEffect(() => { panel.current!.scrollTop = 0; }, [candidate]);
  return (
    <aside class="candidate" ref={panel} aria-label="Candidate" tabIndex={-1}>
      {second ? <Comparison first={first!} second={second} wide={wide} /> : <SingleCandidate id={first!} wide={wide} />}
    </aside>
  );
}

function PanelHeader({ title, id, chips }: { title: string; id: string; chips: string[] }) {
  const wide = address.value.wide;
  return (
    <div class="bar">
      <div>
        <h2>{title}</h2>
        <p class="small"><span class="quiet">{id}</span> {chips.filter(Boolean).map((chip) => <> <Chip key={chip} text={chip} /></>)}</p>
      </div>
      <span class="spread" />
      <button class="widen" onClick={() => go({ wide: wide ? "" : "1" })}>{wide ? "Beside the view" : "Full width"}</button>
      <button onClick={() => go({ candidate: "", wide: "" })} aria-label="Close the candidate">Close</button>
    </div>
  );
}

function SingleCandidate({ id, wide }: { id: string; wide: boolean }) {
  const row = byId.value.get(id);
  const run = status.value?.run ?? "";
  const { answer, problem } = useJson<CandidateAnswer>("/api/candidate", { run, id }, JSON.stringify(row ?? null));
  const { answer: gains } = useJson<Difference[]>("/api/gains", { run, id }, JSON.stringify(row ?? null));
  const shown = row ?? answer?.row;
  if (!shown) return <><PanelHeader title={id} id="" chips={[]} /><p class="empty" role="status">{problem || "Reading …"}</p></>;
  return (
    <>
      <PanelHeader title={shown.name} id={shown.id} chips={[shown.kind, shown.state, shown.outcome ?? ""]} />
      <Path id={shown.id} />
      {shown.reason && <p class="callout bad">Rejected at {shown.reason}</p>}
      {problem && <p class="callout" role="status">{problem}</p>}
      {answer ? <Details answer={answer} gains={gains} wide={wide} /> : <Numbers row={shown} compared={[]} />}
    </>
  );
}

function Path({ id }: { id: string }) {
  const path = pathFromRoot(id, byId.value);
  const children = useMemo(() => rows.value.filter((row) => row.parent === id), [id, rows.value]);
  const middle = path.length > 5 ? [...path.slice(0, 2), "", ...path.slice(-3)] : path;
  return (
    <p class="path small">
      {path.length > 1 && middle.map((ancestor, index) => (ancestor
        ? <span key={ancestor}>{index > 0 && <span class="quiet" aria-hidden="true"> → </span>}{ancestor === id ? <strong>{byId.value.get(id)?.name}</strong> : <CandidateLink id={ancestor} short />}</span>
        : <span key="…" class="quiet"> → … {path.length - 5} more</span>))}
      {children.length > 0 && <span class="quiet">{path.length > 1 ? " · " : ""}{children.length} {children.length === 1 ? "child" : "children"}: {children.slice(0, 4).map((row, index) => <>{index > 0 && ", "}<CandidateLink id={row.id} short /></>)}{children.length > 4 && " …"}</span>}
    </p>
  );
}

function Details({ answer, gains, wide }: { answer: CandidateAnswer; gains: Difference[] | null; wide: boolean }) {
  const { record, parent, row } = answer;
  const compared = gains ?? answer.compared;
  const proposal = record.proposal ?? {};
  return (
    <>
      <Change record={record} parent={parent} wide={wide} />
      <Numbers row={row} compared={compared} record={record} waiting={!gains} />
      <LossByPart record={record} parent={parent} />
      <Curves record={record} parent={parent} controls={answer.controls} />
      <Finding record={record} />
      {proposal.motivation && <Section title="Motivation"><Markdown text={proposal.motivation} /></Section>}
      <Verdict record={record} />
      <Analysis record={record} />
      <Ideas record={record} />
      <Checks record={record} />
      <Revisions record={record} />
      <Calls record={record} />
      <Chain record={record} />
      {programOf(record) && (
        <details class="part"><summary><h3>Program</h3></summary>
          <Code program={programOf(record)} label={`Program of ${proposal.name ?? record.id}`} />
        </details>
      )}
    </>
  );
}

export function Section({ title, children }: { title: string; children: preact.ComponentChildren }) {
  return <section class="part"><h3>{title}</h3>{children}</section>;
}

function Change({ record, parent, wide }: { record: CandidateRecord; parent: CandidateRecord | null; wide: boolean }) {
  const proposal = record.proposal ?? {};
  const own = record.analysis?.components ?? proposal.components ?? [];
  const theirs = parent ? parent.analysis?.components ?? parent.proposal?.components ?? [] : [];
  const added = own.filter((component) => !theirs.includes(component)), removed = theirs.filter((component) => !own.includes(component));
  const [before, after] = [parent ? programOf(parent) : "", programOf(record)];
  const request = record.request ?? {};
  if (!parent && !own.length && !request.ablation_of) {
    return record.proposal?.parent ? <Section title="What changed"><p class="empty">Its parent {record.proposal.parent} is not in the archive.</p></Section> : null;
  }
  return (
    <Section title={parent ? `What changed against ${parent.proposal?.name ?? parent.id}` : "Components"}>
      {request.ablation_of && <p>The same as <CandidateLink id={request.ablation_of} />, without <strong>{request.without_component}</strong>.</p>}
      {(own.length > 0 || removed.length > 0) && (
        <ul class="components">
          {parent && added.map((component) => <li key={component} class="added"><span aria-label="added">+</span> {component}</li>)}
          {parent && removed.map((component) => <li key={component} class="removed"><span aria-label="removed">−</span> {component}</li>)}
          {own.filter((component) => !parent || !added.includes(component)).map((component) => <li key={component}>{component}</li>)}
        </ul>
      )}
      {(proposal.moves ?? []).length > 0 && <p class="small"><span class="quiet">Moves:</span> {proposal.moves!.join(", ")}</p>}
      {parent && (before && after
        ? <Diff before={before} after={after} names={[parent.proposal?.name ?? parent.id, proposal.name ?? record.id]} wide={wide} />
        : <p class="empty">{before ? "The archive holds no program of this candidate." : after ? "The archive holds no program of its parent." : "The archive holds neither program."}</p>)}
    </Section>
  );
}

/** Every measure beside those of the parent and the controls, and differences with intervals. */
function Numbers({ row, compared, record, waiting }: { row: Row; compared: Difference[]; record?: CandidateRecord; waiting?: boolean }) {
  const measures = measuresOf([row, ...compared.map((difference) => difference.row)]).filter((measure) => measure.key !== "number");
  const [main, tasks] = [measures.filter((measure) => !measure.key.startsWith("task:")), measures.filter((measure) => measure.key.startsWith("task:"))];
  if (!measures.length) return null;
  const fitness = record?.verdict?.fitness;
  const losses = compared.filter((difference) => difference.loss), lossReach = Math.max(0, ...losses.flatMap((difference) => [Math.abs(difference.loss!.low), Math.abs(difference.loss!.high)]));
  const benchmarks = compared.filter((difference) => difference.benchmark), benchmarkReach = Math.max(0, ...benchmarks.flatMap((difference) => [Math.abs(difference.benchmark!.low), Math.abs(difference.benchmark!.high)]));
  const parent = compared.find((difference) => difference.id === row.parent) ?? null;
  return (
    <Section title="Measures">
      <div class="scroll" tabIndex={0} role="region" aria-label="Measures">
        <table class="small measures">
          <thead><tr><th scope="col">measure</th><th scope="col" class="num">this</th>{compared.map((difference) => <th key={difference.id} scope="col" class="num">{difference.id === row.parent ? `parent ${difference.name}` : difference.name}</th>)}</tr></thead>
          <tbody>{main.map((measure) => <MeasureRow key={measure.key} measure={measure} row={row} compared={compared} fitness={fitness} />)}</tbody>
        </table>
      </div>
      {(losses.length > 0 || benchmarks.length > 0) && (
        <div class="scroll" tabIndex={0} role="region" aria-label="Differences"><table class="small gains">
          <caption class="quiet">How much better, paired over seeds and held-out blocks or items, with 95 % intervals</caption>
          <tbody>
            {losses.map((difference) => <tr key={`l${difference.id}`}><th scope="row">loss, against {difference.id === row.parent ? "the parent" : difference.name}</th><td><GainBar gain={difference.loss!} reach={lossReach} digits={4} words={difference.loss!.words} /></td></tr>)}
            {benchmarks.map((difference) => <tr key={`b${difference.id}`}><th scope="row">benchmark, against {difference.id === row.parent ? "the parent" : difference.name}</th><td><GainBar gain={difference.benchmark!} reach={benchmarkReach} digits={3} words={difference.benchmark!.low <= 0 && difference.benchmark!.high >= 0 ? "not told apart" : difference.benchmark!.mean > 0 ? "better" : "worse"} /></td></tr>)}
          </tbody>
        </table></div>
      )}
      {waiting && compared.length > 0 && <p class="quiet small" role="status">Computing intervals …</p>}
      {!waiting && !losses.length && parent && <p class="quiet small">No interval can be given against the parent: {row.kind === "imported" ? "published records hold one number without its blocks or items" : "the two share no seed with losses by block"}.</p>}
      {tasks.length > 0 && (
        <details open={tasks.length <= 6}><summary>{tasks.length} tasks</summary>
          <div class="scroll" tabIndex={0} role="region" aria-label="Tasks">
            <table class="small measures"><thead><tr><th scope="col">task</th><th scope="col" class="num">this</th>{compared.map((difference) => <th key={difference.id} scope="col" class="num">{difference.id === row.parent ? `parent ${difference.name}` : difference.name}</th>)}</tr></thead>
              <tbody>{tasks.map((measure) => <MeasureRow key={measure.key} measure={measure} row={row} compared={compared} />)}</tbody></table>
          </div>
        </details>
      )}
    </Section>
  );
}

type FitnessRecord = NonNullable<NonNullable<CandidateRecord["verdict"]>["fitness"]>;

function MeasureRow({ measure, row, compared, fitness }: { measure: Measure; row: Row; compared: Difference[]; fitness?: FitnessRecord }) {
  const own = measure.value(row);
  const error = measure.key === "loss" ? row.loss_stderr : measure.key === "benchmark" ? row.benchmark_stderr : undefined;
  const interval = measure.key === "fitness" ? fitness?.interval : undefined;
  return (
    <tr>
      <th scope="row" title={measure.unit}>{measure.label}</th>
      <td class="num"><strong>{formatted(measure, row)}</strong>{error !== undefined && <span class="quiet"> ± {measure.format(error)}</span>}{interval && <span class="quiet"> [{interval.low.toFixed(3)}, {interval.high.toFixed(3)}]</span>}</td>
      {compared.map((difference) => {
        const theirs = measure.value(difference.row);
        const ratio = measure.key === "parameters" && own && theirs ? ` (${own >= theirs ? "+" : "−"}${Math.abs(100 * (own / theirs - 1)).toFixed(0)} %)` : "";
        return <td key={difference.id} class="num">{theirs === undefined ? "–" : measure.format(theirs)}<span class="quiet">{ratio}</span></td>;
      })}
    </tr>
  );
}

/** The loss by position and kind of token, beside the parent's; first seeds only. */
function LossByPart({ record, parent }: { record: CandidateRecord; parent: CandidateRecord | null }) {
  const own = record.training?.seeds?.[0]?.part_losses ?? [];
  if (!own.length) return null;
  const before = new Map((parent?.training?.seeds?.[0]?.part_losses ?? []).map((part) => [part.part, part.loss ?? 0]));
  return (
    <Section title="Loss by position and kind of token">
      <div class="scroll" tabIndex={0} role="region" aria-label="Loss by position and kind of token">
        <table class="small measures">
          <thead><tr><th scope="col">tokens</th><th scope="col" class="num">share</th><th scope="col" class="num">this</th>{before.size > 0 && <th scope="col" class="num">parent {parent?.proposal?.name ?? parent?.id}</th>}</tr></thead>
          <tbody>{own.map((part) => (
            <tr key={part.part}><th scope="row">{part.part}</th><td class="num">{(100 * (part.share ?? 0)).toFixed(0)} %</td><td class="num"><strong>{(part.loss ?? 0).toFixed(3)}</strong></td>
              {before.size > 0 && <td class="num">{before.get(part.part)?.toFixed(3) ?? "–"}</td>}</tr>
          ))}</tbody>
        </table>
      </div>
    </Section>
  );
}

function curveOf(record: CandidateRecord, part: "train_loss" | "loss"): Curve {
  const points = new Map<number, number[]>();
  for (const seed of record.training?.seeds ?? []) {
    for (const point of seed.curve ?? []) {
      const value = point[part];
      if (value !== undefined) points.set(point.step ?? 0, [...(points.get(point.step ?? 0) ?? []), value]);
    }
  }
  return [...points].sort((a, b) => a[0] - b[0]).map(([step, values]) => [step, values.reduce((a, b) => a + b, 0) / values.length]);
}

function Curves({ record, parent, controls }: { record: CandidateRecord; parent: CandidateRecord | null; controls: CandidateAnswer["controls"] }) {
  const lines = useMemo(() => {
    const found: Line[] = [];
    const add = (label: string, points: Curve, colour: string, width: number, dash?: number[]) => { if (points.length > 1) found.push({ label, points, colour, width, dash }); };
    for (const [index, control] of controls.slice(0, 4).entries()) if (control.row.id !== record.id && control.row.id !== parent?.id) add(control.row.name, control.curve.train, category(2 + index), 1.25, [5, 4]);
    if (parent) add(`${parent.proposal?.name ?? parent.id} (parent)`, curveOf(parent, "train_loss"), category(1), 1.75);
    add(record.proposal?.name ?? record.id, curveOf(record, "train_loss"), category(0), 2.5);
    add("held-out", curveOf(record, "loss"), category(6), 1.75, [2, 3]);
    return found;
  }, [record, parent, controls]);
  if (!lines.length) return null;
  return (
    <Section title="Training curves">
      <Lines lines={lines} x="step" y="nats per token" height={240} legend label={`Training loss of ${lines.map((line) => line.label).join(", ")}`} />
    </Section>
  );
}

function Verdict({ record }: { record: CandidateRecord }) {
  const verdict = record.verdict;
  if (!verdict) return null;
  const scores = Object.entries(verdict.scores ?? {});
  const terms = verdict.fitness ? [["loss term", verdict.fitness.loss_term], ["benchmark term", verdict.fitness.benchmark_term], ["judge term", verdict.fitness.judge_term]] as const : [];
  if (verdict.raw === undefined && !verdict.justification && !verdict.absent_because && !terms.some(([, value]) => value !== undefined)) return null;
  return (
    <Section title="Verdict">
      {verdict.raw !== undefined && <p><strong>{verdict.raw.toFixed(1)}</strong> of 10{verdict.spread !== undefined && <span class="quiet"> ± {verdict.spread.toFixed(1)} over the times it was asked</span>} <span class="quiet">by {verdict.judge}</span></p>}
      <dl class="meters">
        {scores.map(([name, value]) => <div key={name}><dt>{name}</dt><dd><meter min={1} max={10} value={value} aria-label={name} /> {value.toFixed(1)}</dd></div>)}
        {terms.map(([name, value]) => value !== undefined && <div key={name}><dt>{name}</dt><dd><meter min={0} max={1} value={value} aria-label={name} /> {value.toFixed(3)}</dd></div>)}
      </dl>
      {verdict.absent_because && <p class="callout">{verdict.absent_because}</p>}
      {verdict.justification && <Markdown text={verdict.justification} />}
    </Section>
  );
}

const PARTS = [["design_evaluation", "Design"], ["results", "Results"], ["expectation", "Expectation against reality"], ["explanation", "Explanation"], ["synthesis", "For the next design"]] as const;

function Analysis({ record }: { record: CandidateRecord }) {
  const analysis = record.analysis;
  const known = PARTS.filter(([key]) => analysis?.[key]);
  if (!analysis || !known.length) return null;
  return (
    <Section title={record.kind === "KIND_IMPORTED" ? "Published summary" : "Analysis"}>
      {known.map(([key, title]) => <div key={key}>{known.length > 1 && <h4>{title}</h4>}<Markdown text={analysis[key]!} /></div>)}
      {analysis.analyst && <p class="quiet small">by {analysis.analyst}</p>}
    </Section>
  );
}

function Ideas({ record }: { record: CandidateRecord }) {
  const named = [...(record.proposal?.ideas ?? []), ...(record.analysis?.ideas ?? [])];
  const ideas: Idea[] = [...new Map(named.map((idea) => [idea.text, idea])).values()]; // an analysis may repeat the proposal's
  const hits = [...(record.proposal?.cognition ?? []), ...(record.analysis?.cognition ?? [])];
  const titles = new Map(hits.map((hit) => [hit.entry, hit.title ?? hit.entry]));
  if (!ideas.length && !hits.length) return null;
  return (
    <Section title="Ideas and their sources">
      <ul class="ideas">
        {ideas.map((idea, index) => (
          <li key={index}><Chip text={idea.origin ?? "original"} /> {idea.text}{" "}
            {idea.source && (byId.value.has(idea.source) ? <CandidateLink id={idea.source} /> : <cite class="quiet">{titles.get(idea.source) ?? idea.source}</cite>)}
          </li>
        ))}
      </ul>
      {hits.length > 0 && (
        <details><summary>{titles.size} entries of the literature were shown</summary>
          <ul class="small">{[...titles].map(([entry, title]) => <li key={entry}>{title} <span class="quiet">{entry} {hits.find((hit) => hit.entry === entry)?.similarity?.toFixed(2)}</span></li>)}</ul>
        </details>
      )}
    </Section>
  );
}

function Comparison({ first, second, wide }: { first: string; second: string; wide: boolean }) {
  const run = status.value?.run ?? "";
  const { answer, problem } = useJson<{ records: [CandidateRecord, CandidateRecord]; compared: Difference }>("/api/compare", { run, a: first, b: second }, "");
  const [left, right] = [byId.value.get(first), byId.value.get(second)];
  const names: [string, string] = [left?.name ?? first, right?.name ?? second];
  const all = [left, right].filter((row): row is Row => Boolean(row));
  const measures = measuresOf(all).filter((measure) => measure.key !== "number");
  const lines = useMemo<Line[]>(() => (answer ? answer.records.map((record, index) => ({ label: names[index]!, points: curveOf(record, "train_loss"), colour: category(index) })) : []), [answer]);
  return (
    <>
      <PanelHeader title={`${names[0]} against ${names[1]}`} id={`${first} · ${second}`} chips={[]} />
      {problem && <p class="callout" role="status">{problem}</p>}
      <Section title="Measures">
        <div class="scroll" tabIndex={0} role="region" aria-label="Measures">
          <table class="small measures">
            <thead><tr><th scope="col">measure</th><th scope="col" class="num"><CandidateLink id={first} short /></th><th scope="col" class="num"><CandidateLink id={second} short /></th><th scope="col" class="num">difference</th></tr></thead>
            <tbody>
              {measures.map((measure) => {
                const [a, b] = [left && measure.value(left), right && measure.value(right)];
                return <tr key={measure.key}><th scope="row">{measure.label}</th><td class="num">{a === undefined ? "–" : measure.format(a)}</td><td class="num">{b === undefined ? "–" : measure.format(b)}</td><td class="num">{a === undefined || b === undefined ? "–" : `${b >= a ? "+" : "−"}${measure.format(Math.abs(b - a))}`}</td></tr>;
              })}
            </tbody>
          </table>
        </div>
        {answer?.compared.loss && <p class="small">Held-out loss of {names[1]}, how much better: <GainBar gain={answer.compared.loss} reach={Math.max(Math.abs(answer.compared.loss.low), Math.abs(answer.compared.loss.high))} digits={4} words={answer.compared.loss.words} /></p>}
      </Section>
      {lines.some((line) => line.points.length > 1) && <Section title="Training curves"><Lines lines={lines} x="step" y="nats per token" legend label={`Training loss of ${names.join(" and ")}`} /></Section>}
      {answer && <Section title="Programs">{programOf(answer.records[0]) && programOf(answer.records[1]) ? <Diff before={programOf(answer.records[0])} after={programOf(answer.records[1])} names={names} wide={wide} /> : <p class="empty">The archive does not hold both programs.</p>}</Section>}
    </>
  );
}
