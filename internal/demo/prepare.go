package demo

import "context"

// prepare makes what the jobs run on.
func (d *demo) prepare(context.Context) error { return nil }
