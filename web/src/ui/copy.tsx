import { useRef } from "react";

import { useCopy } from "./clipboard";

/** Something to type, and a button that copies it. */
export function Copyable({ text, label }: { text: string; label: string }) {
  const code = useRef<HTMLElement>(null);
  const { copied, copy } = useCopy(text, () => code.current);
  return (
    <span className="flex min-w-0 items-start gap-2 text-left">
      <code ref={code} className="min-w-0 flex-1 rounded bg-hover px-2 py-1 font-mono text-[13px] break-all text-ink">
        {text}
      </code>
      <button
        type="button"
        aria-label={`${copied ? "Copied" : "Copy"} ${label}`}
        onClick={() => void copy()}
        className="shrink-0 rounded border border-line px-2 py-0.5 text-sm text-ink hover:border-accent"
      >
        {copied ? "Copied" : "Copy"}
      </button>
      <span role="status" className="sr-only">
        {copied ? `${label} is copied` : ""}
      </span>
    </span>
  );
}
