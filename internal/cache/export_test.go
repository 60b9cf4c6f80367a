package cache

import "context"

// Keep pins once more what is read, as Run does each minute.
func Keep(ctx context.Context, s *Service) error { return s.keep(ctx) }

// Flush writes hits and misses, as Run does.
func Flush(ctx context.Context, s *Service) error { return s.flush(ctx) }
