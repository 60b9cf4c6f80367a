/** The reader's choice; "auto" follows the system. */
export type Theme = "auto" | "light" | "dark";

const key = "nimbus.theme";
const system = window.matchMedia("(prefers-color-scheme: dark)");

export function storedTheme(): Theme {
  const value = localStorage.getItem(key);
  return value === "light" || value === "dark" ? value : "auto";
}

/** Shows a theme now and, while it is "auto", whenever the system changes. */
export function applyTheme(theme: Theme): void {
  const show = () => {
    document.documentElement.dataset.theme = theme === "auto" ? (system.matches ? "dark" : "light") : theme;
  };
  system.onchange = theme === "auto" ? show : null;
  show();
}

export function chooseTheme(theme: Theme): void {
  if (theme === "auto") localStorage.removeItem(key);
  else localStorage.setItem(key, theme);
  applyTheme(theme);
}
