import type { ReactNode } from "react";

/** A page's only content when there is nothing else to show. */
export function Notice({ title, children }: { title: string; children?: ReactNode }) {
  return (
    <div className="mx-auto max-w-lg rounded-lg border border-line bg-panel px-6 py-10 text-center">
      <h2 className="text-lg font-semibold">{title}</h2>
      {children !== undefined && <div className="mt-3 space-y-3 text-quiet">{children}</div>}
    </div>
  );
}

export function Command({ children }: { children: string }) {
  return <code className="rounded bg-hover px-2 py-1 font-mono text-[13px] text-ink">{children}</code>;
}

export function Loading({ what }: { what: string }) {
  return (
    <p role="status" className="breathe py-10 text-center text-quiet">
      Loading {what}…
    </p>
  );
}
