package fs

import "crypto/rand"

// randomName is a name that nobody else has.
func randomName() []byte {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	return b
}
