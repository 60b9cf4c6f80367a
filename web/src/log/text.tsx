import Anser from "anser";
import type { ReactNode } from "react";

import type { Line } from "./model";

/** What a line says, in its colours; what was searched for is marked. */
export function Text({ line, find }: { line: Line; find: RegExp | undefined }) {
  if (line.stream === "system") return <span className="pr-4 text-quiet italic">{marked(line.text, find)}</span>;
  const colour = line.stream === "stderr" ? "text-warn" : "";
  if (!line.text.includes("\u001b")) return <span className={`pr-4 ${colour}`}>{marked(line.text || " ", find)}</span>;
  return (
    <span className={`pr-4 ${colour}`}>
      {Anser.ansiToJson(line.text, { use_classes: true, remove_empty: true }).map((part, i) => (
        <span key={i} className={[part.fg, ...part.decorations.map((d) => `ansi-${d}`)].filter(Boolean).map(cssClass).join(" ")}>
          {marked(part.content, find)}
        </span>
      ))}
    </span>
  );
}

/** A text with what is found in it marked. */
export function marked(text: string, find: RegExp | undefined): ReactNode {
  if (!find) return text;
  const out: ReactNode[] = [];
  let at = 0;
  for (const match of text.matchAll(find)) {
    if (!match[0]) break; // of what is found everywhere nothing is marked
    out.push(text.slice(at, match.index), <mark key={match.index}>{match[0]}</mark>);
    at = match.index + match[0].length;
  }
  return at === 0 ? text : [...out, text.slice(at)];
}

/** anser says "ansi-red" for a foreground; ours ends in -fg. */
function cssClass(name: string): string {
  return /^ansi-(bright-)?(black|red|green|yellow|blue|magenta|cyan|white)$/.test(name) ? `${name}-fg` : name;
}
