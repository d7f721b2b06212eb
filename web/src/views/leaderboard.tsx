// The table of candidates, and the training curves of the ticked ones in one chart.
import { useEffect, useMemo, useState } from "preact/hooks";
import { address, go } from "../address.js";
import { getJson, byId, filtered, rows, status } from "../archive.js";
import { Lines, smoothed, type Line } from "../parts/lines.js";
import { CandidateTable, columnsOf, sorted } from "../parts/table.js";
import type { Curves } from "../records.js";
import { category } from "../theme.js";

const MAX_TICKED = 40;

export function Leaderboard() {
  const { columns: requested, ticked: text, sort } = address.value;
  const all = rows.value;
  const columns = useMemo(() => columnsOf(all, requested), [all, requested]);
  const ticked = useMemo(() => new Set(text.split(",").filter(Boolean)), [text]);
  const tick = (id: string) => {
    const next = new Set(ticked);
    if (!next.delete(id)) next.add(id);
    go({ ticked: [...next].slice(-MAX_TICKED).join(",") }, true);
  };
  const shown = new Set([...columns.measures.map((measure) => measure.key), ...columns.texts]);
  const choose = (key: string) => {
    if (!shown.delete(key)) shown.add(key as never);
    go({ columns: [...shown].join(",") }, true);
  };
  const withCurves = () => sorted(filtered.value, sort).filter((row) => row.train_loss !== undefined).slice(0, 8).map((row) => row.id);
  const tickedIds = [...ticked];
  return (
    <div class="leaderboard">
      <div class="tools">
        <span class="small">{filtered.value.length.toLocaleString("en")} of {all.length.toLocaleString("en")} candidates</span>
        <details class="chooser">
          <summary>Columns</summary>
          <fieldset>
            <legend class="sr">Columns</legend>
            {columns.all.map(({ key, label }) => <label key={key}><input type="checkbox" checked={shown.has(key as never)} onChange={() => choose(key)} /> {label}</label>)}
          </fieldset>
        </details>
        <button onClick={() => go({ ticked: withCurves().join(",") }, true)}>Tick the first 8</button>
        {ticked.size > 0 && <button onClick={() => go({ ticked: "" }, true)}>Untick {ticked.size}</button>}
        {ticked.size === 2 && <button onClick={() => go({ candidate: `${tickedIds[0]}..${tickedIds[1]}` })}>Compare the two</button>}
        <details class="chooser">
          <summary>Filter help</summary>
          <div class="help small">
            <p><code>loss&lt;1.5</code> any measure or task with &lt; &lt;= &gt; &gt;= =; k, M, % after the number</p>
            <p><code>component:delta-rule</code> <code>state:rejected</code> <code>kind:baseline</code> <code>parent:c000001</code> <code>outcome:confirmed</code> <code>has:train_loss</code></p>
            <p><code>below:c000012</code> all that descend from it; <code>-state:rejected</code> the opposite; a word: in the name or id</p>
          </div>
        </details>
      </div>
      <CandidateTable rows={filtered.value} columns={columns} ticked={ticked} onTick={tick} label="Leaderboard" />
      {ticked.size > 0 && <Overlay ids={[...ticked]} />}
    </div>
  );
}

function Overlay({ ids }: { ids: string[] }) {
  const [curves, setCurves] = useState<Record<string, Curves>>({});
  const [logX, setLogX] = useState(false);
  const [logY, setLogY] = useState(false);
  const [window, setWindow] = useState(1);
  const [problem, setProblem] = useState("");
  const run = status.value?.run ?? "";
  const missing = ids.filter((id) => !(id in curves)).join(",");
  useEffect(() => {
    if (!missing) return;
    getJson<Record<string, Curves>>("/api/curves", { run, ids: missing })
      .then((received) => { setCurves((before) => ({ ...before, ...received })); setProblem(""); })
      .catch((error: Error) => setProblem(error.message));
  }, [missing, run]);
  const lines = useMemo<Line[]>(() => ids.flatMap((id, index) => {
    const curve = curves[id];
    return curve?.train.length ? [{ label: byId.value.get(id)?.name ?? id, points: smoothed(curve.train, window), colour: category(index), dash: index >= 8 ? [6, 4] : undefined }] : [];
  }), [ids.join(), curves, window]);
  const missingCurves = ids.length - lines.length;
  return (
    <section class="overlay" aria-label="Training curves of the ticked candidates">
      <div class="head">
        <h2>Training loss</h2>
        <label class="choice"><input type="checkbox" checked={logX} onChange={(event) => setLogX(event.currentTarget.checked)} /> logarithmic steps</label>
        <label class="choice"><input type="checkbox" checked={logY} onChange={(event) => setLogY(event.currentTarget.checked)} /> logarithmic loss</label>
        <label class="choice"><span class="quiet">smoothing</span><input type="range" min={1} max={25} step={2} value={window} aria-valuetext={`${window} points`} onInput={(event) => setWindow(Number(event.currentTarget.value))} /></label>
      </div>
      {lines.length ? <Lines lines={lines} x="step" y="nats per token" logX={logX} log={logY} height={260} legend label={`Training loss of ${lines.map((line) => line.label).join(", ")}`} /> : <p class="empty" role="status">{problem || (missing ? "Reading curves …" : "")}</p>}
      {!missing && missingCurves > 0 && <p class="quiet small">{missingCurves} of the ticked have no recorded curve.</p>}
    </section>
  );
}
