package guest

import (
	"runtime"
	"sync"
)

// spareThreads are the threads that the guest has beside one for each processor:
// for calls that wait in the kernel, as for the end of a process.
const spareThreads = 16

// keepThreads has the runtime make the threads that the guest may need, all at
// once; it never gives one back. In a container, or on a machine's own system, the
// guest is under the same bound of processes as its job. Once a job has used that
// up, a runtime that wants one more thread ends the program.
func keepThreads() {
	n := runtime.GOMAXPROCS(0) + spareThreads
	var there, gone sync.WaitGroup
	there.Add(n)
	all := make(chan struct{})
	for range n {
		gone.Go(func() {
			runtime.LockOSThread() // which no other may have meanwhile
			defer runtime.UnlockOSThread()
			there.Done()
			<-all
		})
	}
	there.Wait()
	close(all)
	gone.Wait()
}
