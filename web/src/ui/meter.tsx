/** How much of something is used, in percent. */
export function Meter({ label, used }: { label: string; used: number }) {
  const shown = Math.max(0, Math.min(used, 100));
  return (
    <div
      role="meter"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={shown}
      aria-valuetext={`${used} percent`}
      className="mt-2 h-2 overflow-hidden rounded-full bg-hover"
    >
      <div className={`h-full ${used >= 90 ? "bg-warn" : "bg-accent"}`} style={{ width: `${Math.max(shown, 1)}%` }} />
    </div>
  );
}
