// A component whose code is loaded when it is first shown.
import type { ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";

const loadedViews = new Map<() => Promise<ComponentType>, ComponentType>();

export function Lazy({ load }: { load: () => Promise<ComponentType> }) {
  const [, rerender] = useState(0);
  const [failed, setFailed] = useState(false);
  const View = loadedViews.get(load);
  useEffect(() => {
    if (!View) load().then((view) => { loadedViews.set(load, view); rerender((n) => n + 1); }, () => setFailed(true));
  }, [load, View]);
  if (View) return <View />;
  if (!failed) return <p class="empty" role="status">Loading …</p>;
  return (
    <p class="empty" role="alert">This view could not be loaded: the server is away, or was updated while the page was open.{" "}
      <button type="button" onClick={() => location.reload()}>Load the page again</button>
    </p>
  );
}
