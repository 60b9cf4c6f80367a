package scheduler

// Store is where the scheduler keeps everything; internal/store implements it.
type Store interface{}
