package scheduler

// What the loops of Run do, for tests that move the clock by themselves.
var (
	Sweep     = (*Service).sweep
	AskForge  = (*Service).askForge
	ReviewAll = (*Service).reviewAll
	Purge     = (*Service).purge
)
