// Bundles src/ into ../services/web/static/: ES modules split by view, their licences, and what they were built from.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, rmSync, writeFileSync, existsSync, copyFileSync, mkdirSync } from "node:fs";
import { join, relative } from "node:path";
import { build } from "esbuild";

const here = import.meta.dirname;
const out = join(here, "../services/web/static");
rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
const { metafile } = await build({
  absWorkingDir: here,
  entryPoints: { app: "src/main.tsx", style: "src/style.css" },
  outdir: out,
  bundle: true, format: "esm", splitting: true, minify: true, target: "es2022", metafile: true,
  chunkNames: "[name]-[hash]", legalComments: "none", logLevel: "warning",
  define: { "process.env.NODE_ENV": '"production"' },
});
copyFileSync(join(here, "src/index.html"), join(out, "index.html"));

const packages = new Set();
for (const output of Object.values(metafile.outputs)) {
  for (const [input, { bytesInOutput }] of Object.entries(output.inputs)) {
    const match = /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(input);
    if (match && bytesInOutput > 0) packages.add(match[1]);
  }
}
const licences = [...packages].sort().map((name) => {
  const folder = join(here, "node_modules", name);
  const about = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = readdirSync(folder).find((name) => /^licen[cs]e/i.test(name));
  const text = file ? readFileSync(join(folder, file), "utf8").trim() : `Licence: ${about.license}`;
  return `${name} ${about.version} (${about.license})\n\n${text}\n`;
});
writeFileSync(join(out, "LICENCES.txt"), licences.join(`\n${"-".repeat(80)}\n\n`));

// tests/web/test_bundle.py computes the same hash, which detects a bundle older than its sources without npm.
const sources = (folder) => readdirSync(folder, { withFileTypes: true })
  .flatMap((entry) => (entry.isDirectory() ? sources(join(folder, entry.name)) : [join(folder, entry.name)]));
const files = [...sources(join(here, "src")), ...["package-lock.json", "build.mjs"].map((name) => join(here, name))];
const sum = createHash("sha256");
for (const file of files.map((path) => relative(here, path)).sort()) {
  sum.update(`${file}\0`).update(readFileSync(join(here, file)));
}
writeFileSync(join(out, "sources.sha256"), `${sum.digest("hex")}\n`);
const total = Object.values(metafile.outputs).reduce((sum, output) => sum + output.bytes, 0);
console.log(`${existsSync(out) ? relative(process.cwd(), out) : out}: ${Math.round(total / 1024)} KB from ${packages.size} packages`);
