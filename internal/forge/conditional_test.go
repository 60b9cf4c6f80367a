package forge

import (
	"fmt"
	"testing"
)

// TestAnswersAreBounded: in number and in bytes, the longest unused go first, and
// none is another installation's.
func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	a := newAnswers()
	key := func(payer int64, i int) keptKey { return keptKey{payer, fmt.Sprint(i)} }
	for i := range maxKept + 10 {
		a.put(&kept{key: key(1, i), body: make([]byte, 1)})
		if a.get(key(1, 0)) == nil {
			t.Fatalf("one that is in use was forgotten, after %d", i)
		}
	}
	if a.latest.Len() != maxKept || len(a.byKey) != maxKept || a.bytes != maxKept || a.get(key(1, 1)) != nil {
		t.Errorf("%d are kept, %d bytes", len(a.byKey), a.bytes)
	}
	if a.get(key(2, 0)) != nil {
		t.Error("another installation gets it")
	}
	for i := range 40 {
		a.put(&kept{key: key(3, i%20), body: make([]byte, maxKeptOne)})
	}
	if a.bytes > maxKeptBytes || a.latest.Len() != len(a.byKey) {
		t.Errorf("%d bytes are kept, %d and %d", a.bytes, a.latest.Len(), len(a.byKey))
	}
}
