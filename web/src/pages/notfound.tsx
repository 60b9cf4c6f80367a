import { Link } from "@tanstack/react-router";

import { Notice } from "../ui/notice";

export function NotFound() {
  return (
    <Notice title="There is no such page">
      <p>
        <Link to="/">All jobs</Link>
      </p>
    </Notice>
  );
}
