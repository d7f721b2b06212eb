// The frame around the views: run, phase, filter, navigation, and the candidate beside them.
import { computed, useSignalEffect } from "@preact/signals";
import { render } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { address, go, VIEWS, type View } from "./address.js";
import { chooseRun, filtered, loaded, query, rows, runs, start, status, trouble } from "./archive.js";
import { Later } from "./parts/later.js";
import { apply, dark, toggle } from "./theme.js";
import { Overview } from "./views/overview.js";

const LABELS: Record<View, string> = { overview: "Overview", tree: "Tree", leaderboard: "Leaderboard", explore: "Explore" };
const title = computed(() => {
  const { view, candidate, run } = address.value;
  return [candidate || LABELS[view], status.value?.run ?? run, "ASI-Arch"].filter(Boolean).join(" · ");
});

function Header() {
  const { view, filter, run } = address.value;
  const box = useRef<HTMLInputElement>(null);
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      const typing = (event.target as HTMLElement).closest("input, textarea, select");
      if (event.key === "/" && !typing) { event.preventDefault(); box.current?.focus(); }
      if (event.key === "Escape" && !typing && address.peek().candidate) go({ candidate: "", wide: "" });
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
  const current = status.value;
  return (
    <header class="top">
      <h1><span class="mark" aria-hidden="true" />ASI-Arch</h1>
      <label class="run">
        <span class="quiet">Run</span>
        <select value={run || current?.run || ""} onChange={(event) => chooseRun(event.currentTarget.value)}>
          {(runs.value.length ? runs.value : current ? [current] : []).map((one) => (
            <option key={one.run} value={one.run}>{one.run} · {one.phase}</option>
          ))}
        </select>
      </label>
      <nav aria-label="Views">
        {VIEWS.map((one) => (
          <button key={one} class="tab" aria-current={one === view ? "page" : undefined} onClick={() => go({ view: one, wide: "" })}>
            {LABELS[one]}
          </button>
        ))}
      </nav>
      <div class="filter">
        <input
          ref={box} type="search" value={filter} aria-label="Filter candidates" aria-describedby="filter-note" aria-invalid={query.value.problems.length > 0}
          placeholder="Filter: loss<1.5 component:delta-rule" spellcheck={false} autocomplete="off"
          onInput={(event) => go({ filter: event.currentTarget.value }, true)}
        />
        <span id="filter-note" class={query.value.problems.length ? "note wrong" : "note"} role="status">
          {query.value.problems[0] ?? (filter ? `${filtered.value.length} of ${rows.value.length}` : "")}
        </span>
      </div>
      <button class="icon" aria-label={dark.value ? "Use light colours" : "Use dark colours"} title="Light or dark" onClick={toggle}>
        <span aria-hidden="true">{dark.value ? "☀" : "☾"}</span>
      </button>
    </header>
  );
}

const tree = () => import("./views/tree.js").then((one) => one.TreeView);
const leaderboard = () => import("./views/leaderboard.js").then((one) => one.Leaderboard);
const explore = () => import("./views/explore.js").then((one) => one.Explore);
const candidateView = () => import("./views/candidate.js").then((one) => one.CandidatePanel);

function Body() {
  const { view, candidate, wide } = address.value;
  const shown = {
    overview: <Overview />,
    tree: <Later of={tree} key="tree" />,
    leaderboard: <Later of={leaderboard} key="leaderboard" />,
    explore: <Later of={explore} key="explore" />,
  }[view];
  return (
    <div class={`body ${candidate ? "beside" : ""} ${wide && candidate ? "wide" : ""}`}>
      <main id="main" aria-label={LABELS[view]} tabIndex={-1} hidden={Boolean(wide && candidate)}>{loaded.value ? shown : <Waiting />}</main>
      {candidate && loaded.value && <Later of={candidateView} key="candidate" />}
    </div>
  );
}

function Waiting() {
  return <p class="empty" role="status">{trouble.value ? "" : "Reading the run …"}</p>;
}

function App() {
  useSignalEffect(() => { document.title = title.value; });
  return (
    <>
      <a class="skip" href="#main">Skip to the view</a>
      <Header />
      <div class="banner" role="status" aria-live="assertive" hidden={!trouble.value}>{trouble.value}</div>
      <Body />
    </>
  );
}

apply();
start();
render(<App />, document.getElementById("app")!);
