// KaTeX behind a pipe: one JSON request a line on stdin, one JSON answer a line on stdout.
// Started by math.py as `node katex.mjs <directory with node_modules>`; ends when stdin closes.
//
//   {tex, options}  →  {html}  or  {error, position, inMacro, meant}
//
// `position` counts UTF-16 units from 0, null where KaTeX gives none or where it lies `inMacro` and not in `tex`;
// `meant` is the command that was probably meant when one is not defined.
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";

const katex = createRequire(join(process.argv[2], "package.json"))("katex");

const settings = (options) => ({
  ...options,
  macros: { ...options.macros }, // a formula's \gdef must not reach the next formula
  output: "htmlAndMathml",
  strict: "ignore", // unicode in TeX is welcome
  trust: ({ command }) => { throw new katex.ParseError(`${command} is switched off`); }, // \href, \includegraphics, …
  throwOnError: true,
});

function answer({ tex, options }) {
  try {
    return { html: katex.renderToString(tex, settings(options)) };
  } catch (error) {
    if (!(error instanceof katex.ParseError)) return { error: String(error.message ?? error) };
    const undefinedCommand = /^Undefined control sequence: (\\[A-Za-z]+)$/.exec(error.rawMessage)?.[1];
    const inMacro = error.position !== undefined && !liesIn(tex, error);
    return {
      error: error.rawMessage,
      position: inMacro ? null : error.position,
      inMacro,
      meant: undefinedCommand && nearest(undefinedCommand, options),
    };
  }
}

// KaTeX counts positions in the text it is reading, which may be a macro's; its message quotes that text.
function liesIn(tex, { message, position }) {
  const quoted = /(?:at position \d+|at end of input): ([^]*)$/.exec(message)?.[1];
  return quoted !== undefined && tex.slice(Math.max(0, position - 15)).startsWith(quoted.replace(/[\u0332…]/g, ""));
}

// Every command that is one slip of a key away, until KaTeX knows one: it offers no list of its commands.
function nearest(command, options) {
  const name = command.slice(1);
  const letters = [..."abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"];
  const cuts = [...Array(name.length + 1).keys()].map((i) => [name.slice(0, i), name.slice(i)]);
  const slips = [
    ...cuts.filter(([, b]) => b.length > 1).map(([a, b]) => a + b[1] + b[0] + b.slice(2)),
    ...cuts.flatMap(([a, b]) => letters.map((letter) => a + letter + b)),
    ...cuts.filter(([, b]) => b).map(([a, b]) => a + b.slice(1)),
    ...cuts.filter(([, b]) => b).flatMap(([a, b]) => letters.map((letter) => a + letter + b.slice(1))),
  ];
  return slips.filter((slip) => slip.length > 1).map((slip) => "\\" + slip).find((slip) => isDefined(slip, options));
}

function isDefined(command, options) {
  try {
    katex.__parse(command, settings(options));
    return true;
  } catch (error) {
    return !error.rawMessage?.startsWith("Undefined control sequence"); // it only misses its arguments
  }
}

for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  process.stdout.write(JSON.stringify(answer(JSON.parse(line))) + "\n");
}
