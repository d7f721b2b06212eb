// A view whose code is loaded when it is first shown.
import type { ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";

const known = new Map<() => Promise<ComponentType>, ComponentType>();

export function Later({ of }: { of: () => Promise<ComponentType> }) {
  const [, again] = useState(0);
  const [failed, fail] = useState(false);
  const View = known.get(of);
  useEffect(() => {
    if (!View) of().then((view) => { known.set(of, view); again((n) => n + 1); }, () => fail(true));
  }, [of, View]);
  if (View) return <View />;
  if (!failed) return <p class="empty" role="status">Loading …</p>;
  return (
    <p class="empty" role="alert">This view could not be loaded: the server is away, or was updated while the page was open.{" "}
      <button type="button" onClick={() => location.reload()}>Load the page again</button>
    </p>
  );
}
