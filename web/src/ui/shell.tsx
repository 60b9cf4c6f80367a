import { Link, Outlet } from "@tanstack/react-router";
import { useState } from "react";

import { isSignedOut, signOut } from "../api";
import { useJobChanges, useJobs } from "../live";
import mark from "../mark.svg";
import { SignInPage } from "../pages/signin";
import { chooseTheme, storedTheme, type Theme } from "./theme";

/** The frame of every page: where one is, whether it is live, who may see it. */
export function Shell() {
  const { error, isPending } = useJobs();
  const signedOut = error !== null && isSignedOut(error);
  const live = useJobChanges(!isPending && !signedOut);
  if (signedOut) return <SignInPage />;
  return (
    <div className="flex min-h-dvh flex-col">
      <a href="#main" className="sr-only focus:not-sr-only focus:absolute focus:z-10 focus:bg-panel focus:p-3">
        Skip to content
      </a>
      <header className="border-b border-line bg-panel">
        <div className="mx-auto flex max-w-6xl flex-wrap items-center gap-1 px-3 py-2 sm:px-6">
          <Link to="/" className="mr-2 flex items-center gap-2 font-semibold no-underline">
            <img src={mark} alt="" width={24} height={24} />
            <span className="max-sm:sr-only">Nimbus</span>
          </Link>
          <nav aria-label="Main" className="flex flex-wrap gap-1 max-sm:order-last max-sm:w-full">
            <NavLink to="/">Jobs</NavLink>
            <NavLink to="/logs">Logs</NavLink>
            <NavLink to="/caches">Cache</NavLink>
            <NavLink to="/hosts">Hosts</NavLink>
            <NavLink to="/registry" below>
              Registry
            </NavLink>
          </nav>
          <div className="ml-auto flex items-center gap-2 text-sm sm:gap-4">
            <Connection live={live} />
            <ThemeButton />
            <button type="button" onClick={() => void signOut()} className="rounded px-2 py-1 text-quiet hover:bg-hover hover:text-ink">
              Sign out
            </button>
          </div>
        </div>
      </header>
      <main id="main" className="mx-auto flex w-full max-w-6xl flex-1 flex-col px-3 py-5 sm:px-6">
        <Outlet />
      </main>
    </div>
  );
}

/** A page of the main ones; `below` has it be the current one on those below it, too. */
function NavLink({ to, below = false, children }: { to: "/" | "/logs" | "/caches" | "/hosts" | "/registry"; below?: boolean; children: string }) {
  return (
    <Link
      to={to}
      activeOptions={{ exact: !below, includeSearch: false }}
      className="rounded px-2.5 py-1 text-quiet no-underline hover:bg-hover hover:text-ink aria-[current=page]:font-semibold aria-[current=page]:text-ink"
    >
      {children}
    </Link>
  );
}

function Connection({ live }: { live: boolean }) {
  return (
    <span role="status" className="flex items-center gap-1.5 text-quiet">
      <span aria-hidden className={`size-2 rounded-full ${live ? "bg-good" : "breathe bg-warn"}`} />
      <span className="max-sm:sr-only">{live ? "Live" : "Connecting…"}</span>
    </span>
  );
}

const after: Record<Theme, Theme> = { auto: "light", light: "dark", dark: "auto" };
const sign: Record<Theme, string> = { auto: "◐", light: "☀", dark: "☾" };

function ThemeButton() {
  const [theme, setTheme] = useState(storedTheme);
  const next = after[theme];
  return (
    <button
      type="button"
      aria-label={`Theme: ${theme}. Change to ${next}`}
      title={`Theme: ${theme}`}
      onClick={() => {
        chooseTheme(next);
        setTheme(next);
      }}
      className="size-8 rounded text-quiet hover:bg-hover hover:text-ink"
    >
      <span aria-hidden>{sign[theme]}</span>
    </button>
  );
}
