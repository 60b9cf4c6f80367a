import { plain } from "./sgr";
import { type Run, type Shown, shownOf } from "./terminal";

/** A workflow command of GitHub's, as far as it is something to read. */
export interface Command {
  kind: "error" | "warning" | "notice" | "debug" | "command" | "add-mask";
  /** Of an annotation, "" for none. */
  title: string;
  /** file:line:column, as far as it is told. */
  where: string;
  text: string;
}

const kinds = ["error", "warning", "notice", "debug", "command", "add-mask"] as const;

/** How much of what a command says beside its text is looked at. */
const maxProperties = 4096;

/**
 * The command that a line is: "::error file=a.go,line=3::text" as jobs write them,
 * "##[error]text" as GitHub's runner hands them on, "[command]text" as its toolkit
 * tells what it starts. The server reads levels by the same rule (internal/logs/level.go).
 * https://docs.github.com/actions/reference/workflow-commands-for-github-actions
 */
export function commandOf(line: string): Command | undefined {
  const start = /^[ \t]*(::|##\[|\[command\])/i.exec(line);
  if (!start) return undefined;
  const rest = line.slice(start[0].length);
  const form = start[1] ?? "";
  if (form.toLowerCase() === "[command]") return { kind: "command", title: "", where: "", text: rest };
  const ends = form === "::" ? "::" : "]";
  const end = rest.indexOf(ends);
  if (end < 0) return undefined;
  const head = rest.slice(0, end);
  const name = (/^[^ ]*/.exec(head)?.[0] ?? "").toLowerCase();
  const kind = kinds.find((k) => k === name);
  if (!kind) return undefined;
  const text = rest.slice(end + ends.length);
  // What the runner hands on is not escaped any more.
  if (form !== "::") return { kind, title: "", where: "", text };
  return { kind, ...properties(head.slice(name.length, maxProperties)), text: unescaped(text, false) };
}

function properties(text: string): Pick<Command, "title" | "where"> {
  const of = new Map<string, string>();
  for (const pair of text.split(",")) {
    const at = pair.indexOf("=");
    if (at > 0) of.set(pair.slice(0, at).trim().toLowerCase(), unescaped(pair.slice(at + 1), true).trim());
  }
  const [file, line, col] = [of.get("file"), of.get("line"), of.get("col")];
  return { title: of.get("title") ?? "", where: [file, line, line && col].filter(Boolean).join(":") };
}

/** Whether a line names a secret. */
export function hides(line: string): boolean {
  return commandOf(line)?.kind === "add-mask";
}

const escapes: Record<string, string> = { "%25": "%", "%0D": "\r", "%0A": "\n", "%3A": ":", "%2C": "," };

/** Undoes what GitHub's toolkit does to values: of text, and of properties. */
function unescaped(text: string, property: boolean): string {
  return text.replace(property ? /%25|%0D|%0A|%3A|%2C/g : /%25|%0D|%0A/g, (c) => escapes[c] ?? c);
}

const labels = {
  error: ["Error:", "text-bad font-bold"],
  warning: ["Warning:", "text-warn font-bold"],
  notice: ["Notice:", "text-busy font-bold"],
  debug: ["Debug:", "text-quiet font-bold"],
} as const;

/** What is seen of a line: a command as what it says, any other as a terminal shows it. */
export function seenOf(line: string): Shown {
  const command = commandOf(line);
  if (!command) return shownOf(line);
  const { kind, title, where, text } = command;
  // Nobody needs to see it, should it have come so far: while commands are stopped, a job may write it.
  if (kind === "add-mask") return joined([run("::add-mask::***")]);
  if (kind === "command") {
    const shown = shownOf(text);
    return { ...shown, runs: shown.runs.map((r) => ({ ...r, look: "text-busy" })) };
  }
  const [label, look] = labels[kind];
  const runs = [run(label, look), run(" ")];
  if (title) runs.push(...shownOf(oneLine(title)).runs.map((r) => ({ ...r, look: "font-bold" })), run(": "));
  runs.push(...shownOf(oneLine(text)).runs);
  if (where) runs.push(run(` — ${shownOf(oneLine(where)).text}`, "text-quiet"));
  return joined(runs);
}

/** A row is one line high. */
function oneLine(text: string): string {
  return text.trimEnd().replace(/\r\n?|\n/g, " ⏎ ");
}

function run(text: string, look?: string): Run {
  return { text, style: plain, href: "", look };
}

function joined(runs: Run[]): Shown {
  return { runs, text: runs.map((r) => r.text).join(""), altered: true };
}
