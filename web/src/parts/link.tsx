// Links to candidates, and chips for states and outcomes.
import { go, href } from "../address.js";
import { byId } from "../archive.js";

export function CandidateLink({ id, name, short }: { id: string; name?: string; short?: boolean }) {
  const row = byId.value.get(id);
  const text = name ?? row?.name ?? id;
  return (
    <a
      href={href({ candidate: id })} title={`${text} (${id})`}
      onClick={(event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        go({ candidate: id });
      }}
    >
      {text}{!short && text !== id && <span class="quiet"> {id}</span>}
    </a>
  );
}

const TONES: Record<string, string> = {
  confirmed: "good", refuted: "bad", rejected: "bad", undecided: "unsure", training: "busy", finished: "good", searching: "busy",
  baselines: "busy", draining: "busy", paused: "unsure", stopped: "unsure", pass: "good", fail: "bad", warn: "unsure",
};

export function Chip({ text }: { text: string }) {
  return <span class={`chip ${TONES[text] ?? ""}`}>{text}</span>;
}
