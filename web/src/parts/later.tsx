// A view whose code is loaded when it is first shown.
import type { ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";

const known = new Map<() => Promise<ComponentType>, ComponentType>();

export function Later({ of }: { of: () => Promise<ComponentType> }) {
  const [, again] = useState(0);
  const View = known.get(of);
  useEffect(() => {
    if (!View) void of().then((view) => { known.set(of, view); again((n) => n + 1); });
  }, [of, View]);
  return View ? <View /> : <p class="empty" role="status">Loading …</p>;
}
