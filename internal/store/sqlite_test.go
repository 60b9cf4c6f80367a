package store

import (
	"path/filepath"
	"sync"
	"testing"
)

// TestManyConnectToANewFileAtOnce: one of them makes its journal what it is to be, and
// none of the others is told that the file is locked.
func TestManyConnectToANewFileAtOnce(t *testing.T) {
	t.Parallel()
	for range 20 {
		path := filepath.Join(t.TempDir(), "nimbus.db")
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				s, err := openSQLite(t.Context(), path)
				if err == nil {
					err = s.Close()
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
}
