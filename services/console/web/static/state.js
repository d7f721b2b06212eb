// What the page knows: the run, its candidates, and what is looked at.
export const state = { run: "", nodes: [], rows: [], byId: new Map(), chosen: "", find: "" };

export const matches = (one) => !state.find || `${one.name ?? ""} ${one.id}`.toLowerCase().includes(state.find);
