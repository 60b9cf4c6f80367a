import "./styles.css";

import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

import { isSignedOut } from "./api";
import { router } from "./router";
import { applyTheme, storedTheme } from "./ui/theme";

applyTheme(storedTheme());

const queries = new QueryClient({
  defaultOptions: { queries: { retry: (count, error) => !isSignedOut(error) && count < 3, staleTime: 5_000 } },
});

const root = document.getElementById("root");
if (!root) throw new Error("index.html has no #root");
createRoot(root).render(
  <StrictMode>
    <QueryClientProvider client={queries}>
      <RouterProvider router={router} />
    </QueryClientProvider>
  </StrictMode>,
);
