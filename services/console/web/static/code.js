// Programs and differences between them.
import { make } from "./dom.js";

const TOKENS = /(#.*$)|("""|'''|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|\b(import|from|class|def|return|for|in|if|elif|else|None|True|False|self|with|as|while|not|and|or|is|lambda|raise|try|except|assert|pass)\b|\b(\d+\.?\d*(?:e[-+]?\d+)?)\b/g;
const KINDS = ["com", "str", "kw", "num"];

// One line into the pre; whether the text between triple quotes goes on is what is returned.
function coloured(pre, line, quoted) {
  if (quoted) {
    pre.append(make("span", { class: "str" }, line));
    return !line.includes(quoted) ? quoted : "";
  }
  let last = 0;
  for (const match of line.matchAll(TOKENS)) {
    const [text, ...groups] = match;
    pre.append(line.slice(last, match.index));
    if (text === '"""' || text === "'''") {
      const end = line.indexOf(text, match.index + 3), stop = end < 0 ? line.length : end + 3;
      pre.append(make("span", { class: "str" }, line.slice(match.index, stop)), line.slice(stop));
      return end < 0 ? text : "";
    }
    pre.append(make("span", { class: KINDS[groups.findIndex((one) => one !== undefined)] }, text));
    last = match.index + text.length;
  }
  pre.append(line.slice(last));
  return "";
}

export function program(text) {
  const pre = make("pre", { tabindex: 0 });
  let quoted = "";
  for (const line of text.split("\n")) {
    quoted = coloured(pre, line, quoted);
    pre.append("\n");
  }
  return pre;
}

const KIND = { "+": "add", "-": "del", "@": "com" };
export const difference = (text) =>
  make("pre", { tabindex: 0 }, ...text.split("\n").map((line) => make("span", { class: KIND[line[0]] ?? "" }, `${line}\n`)));
