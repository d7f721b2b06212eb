// Untrusted text: Markdown without HTML and images, and highlighted code. None of it can become markup of the page.
import DOMPurify from "dompurify";
import hljs from "highlight.js/lib/core";
import python from "highlight.js/lib/languages/python";
import MarkdownIt from "markdown-it";
import { useMemo } from "preact/hooks";

hljs.registerLanguage("python", python);

const markdown = new MarkdownIt({ html: false, linkify: false, breaks: false }).disable("image");
const ALLOWED = {
  ALLOWED_TAGS: ["p", "br", "strong", "em", "s", "code", "pre", "ul", "ol", "li", "blockquote", "h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "a", "hr"],
  ALLOWED_ATTR: ["href", "start"],
  ALLOWED_URI_REGEXP: /^https?:\/\//i,
};
DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") { node.setAttribute("rel", "noopener noreferrer nofollow"); node.setAttribute("target", "_blank"); }
  // Headings of the text rank below those of the page.
  if (/^H[1-3]$/.test(node.tagName)) { node.setAttribute("role", "heading"); node.setAttribute("aria-level", "5"); }
});

export function Markdown({ text }: { text: string }) {
  const html = useMemo(() => DOMPurify.sanitize(markdown.render(text), ALLOWED), [text]);
  return <div class="prose" dangerouslySetInnerHTML={{ __html: html }} />;
}

/** Each line of a program as HTML: the highlighter escapes the text; spans over several lines are closed and reopened. */
export function highlighted(program: string): string[] {
  const open: string[] = [];
  return hljs.highlight(program, { language: "python" }).value.split("\n").map((line) => {
    const before = open.join("");
    for (const tag of line.match(/<span[^>]*>|<\/span>/g) ?? []) {
      if (tag === "</span>") open.pop(); else open.push(tag);
    }
    return before + line + "</span>".repeat(open.length);
  });
}

export function Code({ program, label }: { program: string; label: string }) {
  const lines = useMemo(() => highlighted(program), [program]);
  return (
    <div class="code" tabIndex={0} role="region" aria-label={label}>
      <pre><code dangerouslySetInnerHTML={{ __html: lines.join("\n") }} /></pre>
    </div>
  );
}
