import { useEffect, useRef, useState } from "react";

/** Something to type, and a button that copies it. */
export function Copyable({ text, label }: { text: string; label: string }) {
  const code = useRef<HTMLElement>(null);
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return;
    const timer = setTimeout(() => setCopied(false), 2000);
    return () => clearTimeout(timer);
  }, [copied]);

  const copy = async () => {
    // Browsers have a clipboard for pages that came by https, or from this machine;
    // for others what is to be copied is selected at least.
    if (navigator.clipboard as Clipboard | undefined) {
      await navigator.clipboard.writeText(text);
      setCopied(true);
    } else if (code.current) {
      window.getSelection()?.selectAllChildren(code.current);
    }
  };
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
