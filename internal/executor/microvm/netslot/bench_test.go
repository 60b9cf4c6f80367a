package netslot

import (
	"os"
	"strconv"
	"testing"

	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// BenchmarkSlot makes and removes slots: what a machine waits for that finds
// none prepared.
func BenchmarkSlot(b *testing.B) {
	testenv.Require(b, "root", "nft")
	m := New(Config{Owner: "t" + strconv.Itoa(os.Getpid()), Relays: []Relay{{Port: 9000, Target: "127.0.0.1:9"}}})
	for _, r := range []Reach{none, internet, reaching("*.example.com")} {
		for _, act := range []string{"create", "remove"} {
			b.Run(string(r.Profile)+"/"+act, func(b *testing.B) {
				for b.Loop() {
					if act == "remove" {
						b.StopTimer()
					}
					if _, err := m.Create(b.Context(), "bench", r); err != nil {
						b.Fatal(err)
					}
					if act == "create" {
						b.StopTimer()
					} else {
						b.StartTimer()
					}
					if err := m.Remove(b.Context(), "bench"); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			})
		}
	}
}
