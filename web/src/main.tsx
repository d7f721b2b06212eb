// The page: a header with run, navigation and filter, the current view, and the candidate panel.
import { computed, useSignalEffect } from "@preact/signals";
import { render } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { address, go, VIEWS, type View } from "./address.js";
import { chooseRun, filtered, loaded, query, rows, runs, start, status, problem } from "./archive.js";
import { Lazy } from "./parts/lazy.js";
import { apply, dark, toggle } from "./theme.js";
import { Overview } from "./views/overview.js";

const LABELS: Record<View, string> = { overview: "Overview", tree: "Tree", leaderboard: "Leaderboard", explore: "Explore" };
const title = computed(() => {
  const { view, candidate, run } = address.value;
  return [candidate || LABELS[view], status.value?.run ?? run, "ASI-Arch"].filter(Boolean).join(" · ");
});

function Header() {
  const { view, filter, run } = address.value;
  const filterBox = useRef<HTMLInputElement>(null);
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      const typing = (event.target as HTMLElement).closest("input, textarea, select");
      if (event.key === "/" && !typing) { event.preventDefault(); filterBox.current?.focus(); }
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
          {(runs.value.length ? runs.value : current ? [current] : []).map((listedRun) => (
            <option key={listedRun.run} value={listedRun.run}>{listedRun.run} · {listedRun.phase}</option>
          ))}
        </select>
      </label>
      <nav aria-label="Views">
        {VIEWS.map((listedView) => (
          <button key={listedView} class="tab" aria-current={listedView === view ? "page" : undefined} onClick={() => go({ view: listedView, wide: "" })}>
            {LABELS[listedView]}
          </button>
        ))}
      </nav>
      <div class="filter">
        <input
          ref={filterBox} type="search" value={filter} aria-label="Filter candidates" aria-describedby="filter-note" aria-invalid={query.value.problems.length > 0}
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

const tree = () => import("./views/tree.js").then((module) => module.TreeView);
const leaderboard = () => import("./views/leaderboard.js").then((module) => module.Leaderboard);
const explore = () => import("./views/explore.js").then((module) => module.Explore);
const candidateView = () => import("./views/candidate.js").then((module) => module.CandidatePanel);

function Body() {
  const { view, candidate, wide } = address.value;
  const shown = {
    overview: <Overview />,
    tree: <Lazy load={tree} key="tree" />,
    leaderboard: <Lazy load={leaderboard} key="leaderboard" />,
    explore: <Lazy load={explore} key="explore" />,
  }[view];
  return (
    <div class={`body ${candidate ? "beside" : ""} ${wide && candidate ? "wide" : ""}`}>
      <main id="main" aria-label={LABELS[view]} tabIndex={-1} hidden={Boolean(wide && candidate)}>{loaded.value ? shown : <Loading />}</main>
      {candidate && loaded.value && <Lazy load={candidateView} key="candidate" />}
    </div>
  );
}

function Loading() {
  return <p class="empty" role="status">{problem.value ? "" : "Reading the run …"}</p>;
}

function App() {
  useSignalEffect(() => { document.title = title.value; });
  return (
    <>
      <a class="skip" href="#main">Skip to the view</a>
      <Header />
      <div class="banner" role="status" aria-live="assertive" hidden={!problem.value}>{problem.value}</div>
      <Body />
    </>
  );
}

apply();
start();
render(<App />, document.getElementById("app")!);
