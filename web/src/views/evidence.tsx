// The evidence on a candidate: probes, verification trainings and finding, repairs, model calls, chain of events.
import { useState } from "preact/hooks";
import { getJson, byId } from "../archive.js";
import { abbreviated, clock } from "../measures.js";
import { GainBar } from "../parts/interval.js";
import { CandidateLink, Chip } from "../parts/link.js";
import { Code } from "../parts/text.js";
import type { CandidateRecord, Link } from "../records.js";
import { Section } from "./candidate.js";

export function Checks({ record }: { record: CandidateRecord }) {
  const check = record.proposal?.check;
  if (!check?.verdicts?.length) return null;
  const bad = check.verdicts.filter((verdict) => verdict.outcome !== "pass");
  return (
    <details class="part" open={bad.length > 0}>
      <summary><h3>Probes</h3> <Chip text={check.passed ? "pass" : "fail"} /> <span class="quiet small">{check.verdicts.length} probes{bad.length ? `, ${bad.length} not quite` : ""}{check.seconds !== undefined && `, ${check.seconds.toFixed(1)} s`}</span></summary>
      <ul class="plain small probes">
        {[...bad, ...check.verdicts.filter((verdict) => verdict.outcome === "pass")].map((verdict) => <li key={verdict.probe}><Chip text={verdict.outcome} /> <strong>{verdict.probe}</strong> <span class="quiet">{verdict.message}</span></li>)}
      </ul>
    </details>
  );
}

export function Finding({ record }: { record: CandidateRecord }) {
  const finding = record.discovery;
  const verifications = record.verifications ?? [];
  if (!finding && !verifications.length) return null;
  const interval = finding?.interval;
  const outcome = finding?.outcome || (finding?.confirmed ? "confirmed" : "undecided");
  return (
    <Section title="Verification and finding">
      {finding && (
        <>
          <p><Chip text={outcome} /> {finding.reason || finding.method}</p>
          {interval && finding.effect !== undefined && (
            <p class="small">Against the strongest control {finding.control && <CandidateLink id={finding.control} />}: <GainBar gain={{ mean: finding.effect, ...interval }} reach={Math.max(Math.abs(interval.low), Math.abs(interval.high))} digits={4} words={outcome} /></p>
          )}
          <p class="quiet small">{finding.p_value !== undefined && `p ${finding.p_value.toPrecision(2)}, `}{finding.adjusted_p_value !== undefined && `adjusted for ${finding.tried} tried ${finding.adjusted_p_value.toPrecision(2)}, `}{(finding.seeds ?? []).length} fresh seeds, {(finding.controls ?? []).length} controls</p>
        </>
      )}
      {verifications.map((verification, index) => (
        <table key={index} class="small measures">
          <caption class="quiet">Trained again at rung {verification.rung ?? 1}{verification.stage ? `, stage ${verification.stage}` : ""}{verification.training?.loss !== undefined ? `: loss ${verification.training.loss.toFixed(4)}` : ""}</caption>
          <thead><tr><th scope="col">seed</th><th scope="col" class="num">held-out loss</th><th scope="col" class="num">standard error</th></tr></thead>
          <tbody>{(verification.training?.seeds ?? []).map((seed) => <tr key={seed.seed}><td>{seed.seed}</td><td class="num">{seed.loss?.toFixed(4) ?? "–"}</td><td class="num">{seed.loss_stderr?.toFixed(4) ?? "–"}</td></tr>)}</tbody>
        </table>
      ))}
    </Section>
  );
}

export function Revisions({ record }: { record: CandidateRecord }) {
  const revisions = record.training?.revisions ?? [];
  const history = record.proposal?.novelty_history ?? [];
  if (!revisions.length && !history.length) return null;
  return (
    <Section title="Repairs and refused tries">
      {history.length > 0 && <ul class="small">{history.map((reason) => <li key={reason}>{reason}</li>)}</ul>}
      {revisions.map((revision, index) => (
        <details key={index}><summary>Attempt {index + 1} failed{revision.repair ? `: ${revision.repair}` : ""}</summary>
          <pre class="plain-text" tabIndex={0}>{revision.error}</pre>
          {revision.program && <Code program={revision.program} label={`Program of attempt ${index + 1}`} />}
        </details>
      ))}
    </Section>
  );
}

export function Calls({ record }: { record: CandidateRecord }) {
  const calls = record.calls ?? [];
  if (!calls.length) return null;
  const tokens = calls.reduce((sum, call) => sum + Number(call.prompt_tokens ?? 0) + Number(call.completion_tokens ?? 0), 0);
  return (
    <details class="part">
      <summary><h3>Calls to models</h3> <span class="quiet small">{calls.length} calls, {abbreviated(tokens)} tokens</span></summary>
      {calls.map((call, index) => <CallDetails key={index} record={record} index={index} call={call} />)}
    </details>
  );
}

type Call = NonNullable<CandidateRecord["calls"]>[number];

function CallDetails({ record, index, call }: { record: CandidateRecord; index: number; call: Call }) {
  const [text, setText] = useState<{ prompt: string | null; answer: string | null } | null>(null);
  const [problem, setProblem] = useState("");
  const load = () => {
    if (!text) getJson<{ prompt: string | null; answer: string | null }>("/api/call", { run: record.run, id: record.id, call: String(index) }).then(setText, (error: Error) => setProblem(error.message));
  };
  return (
    <details onToggle={(event) => { if (event.currentTarget.open) load(); }}>
      <summary class="small"><strong>{call.role}</strong> {call.model} <span class="quiet">{abbreviated(Number(call.prompt_tokens ?? 0))} + {abbreviated(Number(call.completion_tokens ?? 0))} tokens, {(call.seconds ?? 0).toFixed(1)} s{call.price !== undefined ? `, $${call.price.toFixed(4)}` : ""}{call.error ? `: ${call.error}` : ""}</span></summary>
      {problem && <p class="callout">{problem}</p>}
      {text && (["prompt", "answer"] as const).map((part) => <div key={part}><h4>{part}</h4><pre class="plain-text" tabIndex={0} aria-label={part}>{text[part] === null ? "not kept in the artifact store of this machine" : indented(text[part])}</pre></div>)}
    </details>
  );
}

/** JSON indented, with its escaped line breaks; other text unchanged. */
function indented(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text), null, 2).replaceAll("\\n", "\n");
  } catch {
    return text;
  }
}

export function Chain({ record }: { record: CandidateRecord }) {
  const [links, setLinks] = useState<Link[] | null>(null);
  const [problem, setProblem] = useState("");
  const load = () => {
    getJson<Link[]>("/api/chain", { run: record.run, id: record.id }).then(setLinks, (error: Error) => setProblem(error.message));
  };
  const start = links?.[0] ? Date.parse(links[0].time) : 0;
  return (
    <details class="part" key={`${record.id}${byId.value.get(record.id)?.state}`} onToggle={(event) => { if (event.currentTarget.open) load(); }}>
      <summary><h3>Chain of events</h3> <span class="quiet small">every fact with its hash</span></summary>
      {problem && <p class="callout">{problem}</p>}
      {links && (
        <div class="scroll" tabIndex={0} role="region" aria-label="Chain of events">
          <table class="small"><thead><tr><th scope="col" class="num">sequence</th><th scope="col">event</th><th scope="col">by</th><th scope="col" class="num">after</th><th scope="col">SHA-256</th></tr></thead>
            <tbody>{links.map((link) => (
              <tr key={link.sequence}><td class="num">{link.sequence}</td><td>{link.id}{!link.accepted && <span class="bad"> refused: {link.refused_because}</span>}</td><td>{link.service}</td><td class="num">{clock((Date.parse(link.time) - start) / 1000)}</td><td><code>{link.sha256.slice(0, 12)}</code></td></tr>
            ))}</tbody></table>
        </div>
      )}
    </details>
  );
}
