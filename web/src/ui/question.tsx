import { type ReactNode, useEffect, useId, useRef } from "react";

interface QuestionProps {
  title: string;
  /** What is done, and how it is called while it is. */
  yes: string;
  doing: string;
  pending: boolean;
  /** Why it could not be done, "" while it could. */
  error: string;
  onYes: () => void;
  onEnd: () => void;
  children: ReactNode;
}

/** Asks before something is done that can't be undone. Escape and the first button do nothing. */
export function Question({ title, yes, doing, pending, error, onYes, onEnd, children }: QuestionProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const asked = document.activeElement;
    dialog.current?.showModal();
    // Who goes by the keyboard goes on where the question was asked.
    return () => {
      if (asked instanceof HTMLElement && asked.isConnected) asked.focus();
    };
  }, []);
  return (
    <dialog
      ref={dialog}
      onCancel={(event) => {
        // Closed by the browser it would be gone from sight a moment before it ends here,
        // and a question asked anew in that moment would end with it.
        event.preventDefault();
        onEnd();
      }}
      onClose={onEnd}
      aria-labelledby={id}
      className="m-auto max-w-[min(24rem,calc(100%-2rem))] rounded-lg border border-line bg-panel p-6 text-ink backdrop:bg-black/50"
    >
      <h2 id={id} className="text-lg font-semibold break-words">
        {title}
      </h2>
      {children}
      {error && (
        <p role="alert" className="mt-2 text-bad">
          {error}
        </p>
      )}
      <div className="mt-5 flex justify-end gap-3">
        <button type="button" onClick={onEnd} className="rounded border border-line px-3 py-1.5 hover:bg-hover">
          Keep it
        </button>
        <button type="button" disabled={pending} onClick={onYes} className="rounded bg-bad px-3 py-1.5 font-medium text-page disabled:opacity-60">
          {pending ? doing : yes}
        </button>
      </div>
    </dialog>
  );
}
