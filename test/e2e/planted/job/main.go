// Command job writes secrets that it has asked to be hidden, in every way and cut
// anywhere. In the middle of one it waits for the file that it is given.
package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus/test/e2e/planted"
)

func main() {
	seed, proceed := os.Args[1], os.Args[2]
	escape := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	for i := range planted.Count {
		secret := planted.Secret(seed, i)
		fmt.Println("::add-mask::" + escape.Replace(secret))
		out := os.Stdout
		if i%3 == 0 {
			time.Sleep(20 * time.Millisecond) // streams are followed each by itself
			out = os.Stderr
		}
		if i == planted.Count/2 {
			time.Sleep(time.Second)
			half := len(secret) / 2
			fmt.Fprint(out, "waits with ", secret[:half])
			for {
				if _, err := os.Stat(proceed); err == nil {
					break
				}
				time.Sleep(50 * time.Millisecond)
			}
			fmt.Fprintln(out, secret[half:])
		}
		for n, written := range planted.Written(secret) {
			text := fmt.Sprintf("%d.%d %s.\n", i, n, written)
			for text != "" {
				cut := 1 + rand.IntN(min(len(text), 100))
				fmt.Fprint(out, text[:cut])
				text = text[cut:]
			}
		}
	}
	fmt.Println("planted all")
}
