// What stands behind a candidate: probes, second trainings and their finding, repairs, calls to models, chain of events.
import { useState } from "preact/hooks";
import { ask, byId } from "../archive.js";
import { big, clock } from "../measures.js";
import { GainBar } from "../parts/interval.js";
import { CandidateLink, Chip } from "../parts/link.js";
import { Code } from "../parts/text.js";
import type { CandidateRecord, Link } from "../records.js";
import { Section } from "./candidate.js";

export function Checks({ record }: { record: CandidateRecord }) {
  const check = record.proposal?.check;
  if (!check?.verdicts?.length) return null;
  const bad = check.verdicts.filter((one) => one.outcome !== "pass");
  return (
    <details class="part" open={bad.length > 0}>
      <summary><h3>Probes</h3> <Chip text={check.passed ? "pass" : "fail"} /> <span class="quiet small">{check.verdicts.length} probes{bad.length ? `, ${bad.length} not quite` : ""}{check.seconds !== undefined && `, ${check.seconds.toFixed(1)} s`}</span></summary>
      <ul class="plain small probes">
        {[...bad, ...check.verdicts.filter((one) => one.outcome === "pass")].map((one) => <li key={one.probe}><Chip text={one.outcome} /> <strong>{one.probe}</strong> <span class="quiet">{one.message}</span></li>)}
      </ul>
    </details>
  );
}

export function Finding({ record }: { record: CandidateRecord }) {
  const finding = record.discovery;
  const again = record.verifications ?? [];
  if (!finding && !again.length) return null;
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
      {again.map((one, place) => (
        <table key={place} class="small measures">
          <caption class="quiet">Trained again at rung {one.rung ?? 1}{one.stage ? `, stage ${one.stage}` : ""}{one.training?.loss !== undefined ? `: loss ${one.training.loss.toFixed(4)}` : ""}</caption>
          <thead><tr><th scope="col">seed</th><th scope="col" class="num">held-out loss</th><th scope="col" class="num">standard error</th></tr></thead>
          <tbody>{(one.training?.seeds ?? []).map((seed) => <tr key={seed.seed}><td>{seed.seed}</td><td class="num">{seed.loss?.toFixed(4) ?? "–"}</td><td class="num">{seed.loss_stderr?.toFixed(4) ?? "–"}</td></tr>)}</tbody>
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
      {history.length > 0 && <ul class="small">{history.map((one) => <li key={one}>{one}</li>)}</ul>}
      {revisions.map((one, place) => (
        <details key={place}><summary>Attempt {place + 1} failed{one.repair ? `: ${one.repair}` : ""}</summary>
          <pre class="plain-text" tabIndex={0}>{one.error}</pre>
          {one.program && <Code program={one.program} label={`Program of attempt ${place + 1}`} />}
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
      <summary><h3>Calls to models</h3> <span class="quiet small">{calls.length} calls, {big(tokens)} tokens</span></summary>
      {calls.map((call, place) => <OneCall key={place} record={record} place={place} call={call} />)}
    </details>
  );
}

type Call = NonNullable<CandidateRecord["calls"]>[number];

function OneCall({ record, place, call }: { record: CandidateRecord; place: number; call: Call }) {
  const [text, setText] = useState<{ prompt: string | null; answer: string | null } | null>(null);
  const [trouble, setTrouble] = useState("");
  const open = () => {
    if (!text) ask<{ prompt: string | null; answer: string | null }>("/api/call", { run: record.run, id: record.id, call: String(place) }).then(setText, (error: Error) => setTrouble(error.message));
  };
  return (
    <details onToggle={(event) => { if (event.currentTarget.open) open(); }}>
      <summary class="small"><strong>{call.role}</strong> {call.model} <span class="quiet">{big(Number(call.prompt_tokens ?? 0))} + {big(Number(call.completion_tokens ?? 0))} tokens, {(call.seconds ?? 0).toFixed(1)} s{call.price !== undefined ? `, $${call.price.toFixed(4)}` : ""}{call.error ? `: ${call.error}` : ""}</span></summary>
      {trouble && <p class="callout">{trouble}</p>}
      {text && (["prompt", "answer"] as const).map((part) => <div key={part}><h4>{part}</h4><pre class="plain-text" tabIndex={0} aria-label={part}>{text[part] === null ? "not kept in the artifact store of this machine" : laidOut(text[part])}</pre></div>)}
    </details>
  );
}

/** JSON with its line breaks; anything else as it is. */
function laidOut(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text), null, 2).replaceAll("\\n", "\n");
  } catch {
    return text;
  }
}

export function Chain({ record }: { record: CandidateRecord }) {
  const [links, setLinks] = useState<Link[] | null>(null);
  const [trouble, setTrouble] = useState("");
  const open = () => {
    ask<Link[]>("/api/chain", { run: record.run, id: record.id }).then(setLinks, (error: Error) => setTrouble(error.message));
  };
  const begun = links?.[0] ? Date.parse(links[0].time) : 0;
  return (
    <details class="part" key={`${record.id}${byId.value.get(record.id)?.state}`} onToggle={(event) => { if (event.currentTarget.open) open(); }}>
      <summary><h3>Chain of events</h3> <span class="quiet small">every fact with its hash</span></summary>
      {trouble && <p class="callout">{trouble}</p>}
      {links && (
        <div class="scroll" tabIndex={0} role="region" aria-label="Chain of events">
          <table class="small"><thead><tr><th scope="col" class="num">sequence</th><th scope="col">event</th><th scope="col">by</th><th scope="col" class="num">after</th><th scope="col">SHA-256</th></tr></thead>
            <tbody>{links.map((link) => (
              <tr key={link.sequence}><td class="num">{link.sequence}</td><td>{link.id}{!link.accepted && <span class="bad"> refused: {link.refused_because}</span>}</td><td>{link.service}</td><td class="num">{clock((Date.parse(link.time) - begun) / 1000)}</td><td><code>{link.sha256.slice(0, 12)}</code></td></tr>
            ))}</tbody></table>
        </div>
      )}
    </details>
  );
}
