package rootfs

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// An attestation is an in-toto statement with SLSA's predicate of provenance,
// in a DSSE envelope: what cosign and others read.
const (
	payloadType   = "application/vnd.in-toto+json"
	statementType = "https://in-toto.io/Statement/v1"
	predicateType = "https://slsa.dev/provenance/v1"
	buildType     = "https://nimbus-ci.dev/image-conversion/v1"
)

// Provenance is how a root came to be, beside what its manifest says.
type Provenance struct {
	Builder string // who: the host
	Began   time.Time
}

type envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     string      `json:"payload"` // base64
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	KeyID string `json:"keyid"`
	Sig   string `json:"sig"` // base64
}

type statement struct {
	Type          string    `json:"_type"`
	Subject       []subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     predicate `json:"predicate"`
}

type subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

type predicate struct {
	BuildDefinition struct {
		BuildType            string         `json:"buildType"`
		ExternalParameters   map[string]any `json:"externalParameters"`
		InternalParameters   map[string]any `json:"internalParameters"`
		ResolvedDependencies []resolved     `json:"resolvedDependencies"`
	} `json:"buildDefinition"`
	RunDetails struct {
		Builder struct {
			ID string `json:"id"`
		} `json:"builder"`
		Metadata struct {
			StartedOn  time.Time `json:"startedOn"`
			FinishedOn time.Time `json:"finishedOn"`
		} `json:"metadata"`
	} `json:"runDetails"`
}

type resolved struct {
	URI    string            `json:"uri"`
	Digest map[string]string `json:"digest"`
}

// attest signs what a manifest says.
func attest(m Manifest, p Provenance, key ed25519.PrivateKey) (envelope, error) {
	s := statement{
		Type: statementType, PredicateType: predicateType,
		Subject: []subject{{rootFile, map[string]string{"sha256": bare(m.Digest)}}},
	}
	d := &s.Predicate.BuildDefinition
	d.BuildType = buildType
	d.ExternalParameters = map[string]any{"source": m.Source, "arch": m.Arch}
	d.InternalParameters = map[string]any{"manifest": m}
	d.ResolvedDependencies = []resolved{{m.Source, map[string]string{"sha256": bare(m.SourceDigest)}}}
	s.Predicate.RunDetails.Builder.ID = p.Builder
	s.Predicate.RunDetails.Metadata.StartedOn, s.Predicate.RunDetails.Metadata.FinishedOn = p.Began.UTC(), m.ConvertedAt
	payload, err := json.Marshal(s)
	if err != nil {
		return envelope{}, fmt.Errorf("encode attestation: %w", err)
	}
	return envelope{
		PayloadType: payloadType, Payload: base64.StdEncoding.EncodeToString(payload),
		Signatures: []signature{{keyID(ed25519.PublicKey(key[ed25519.PrivateKeySize-ed25519.PublicKeySize:])), base64.StdEncoding.EncodeToString(ed25519.Sign(key, preAuth(payload)))}},
	}, nil
}

// attested returns the manifest that a trusted key has signed.
func attested(e envelope, trusted []ed25519.PublicKey) (Manifest, error) {
	payload, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil || e.PayloadType != payloadType {
		return Manifest{}, errors.New("its attestation can't be read")
	}
	if !signedBy(e, payload, trusted) {
		return Manifest{}, errors.New("no key that this host trusts has signed its attestation")
	}
	var s struct {
		statement
		Predicate struct {
			BuildDefinition struct {
				InternalParameters struct {
					Manifest Manifest `json:"manifest"`
				} `json:"internalParameters"`
			} `json:"buildDefinition"`
		} `json:"predicate"`
	}
	if err := json.Unmarshal(payload, &s); err != nil {
		return Manifest{}, fmt.Errorf("decode attestation: %w", err)
	}
	m := s.Predicate.BuildDefinition.InternalParameters.Manifest
	if s.Type != statementType || s.PredicateType != predicateType || len(s.Subject) != 1 || s.Subject[0].Digest["sha256"] != bare(m.Digest) {
		return Manifest{}, errors.New("its attestation is of something else")
	}
	return m, nil
}

func signedBy(e envelope, payload []byte, trusted []ed25519.PublicKey) bool {
	const most = 16
	for i, s := range e.Signatures {
		sig, err := base64.StdEncoding.DecodeString(s.Sig)
		if err != nil || i == most {
			return false
		}
		for _, key := range trusted { // the key's id is only a hint
			if ed25519.Verify(key, preAuth(payload), sig) {
				return true
			}
		}
	}
	return false
}

// preAuth is what DSSE signs.
func preAuth(payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload)
}

func bare(digest string) string {
	return string(bytes.TrimPrefix([]byte(digest), []byte("sha256:")))
}

func keyID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:])
}

// Names of keys in their folder. Whatever else ends with keySuffix is trusted,
// too: an org's, whose images were brought here.
const (
	signingKey = "host.key"
	keySuffix  = ".pub"
)

// signer is this host's key, made when it is first needed.
func (s *Store) signer(ctx context.Context) (ed25519.PrivateKey, error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	path := filepath.Join(s.dir, keysDir, signingKey)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s.newSigner(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read signing key: %w", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "%s is no PEM file", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "%s is no Ed25519 key in PKCS #8", path).WithHint("remove it for a new one; images that it has signed need its %s", keySuffix)
	}
	return key, nil
}

func (s *Store) newSigner(path string) (ed25519.PrivateKey, error) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode signing key: %w", err)
	}
	shown, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("encode signing key: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make folder of keys: %w", err)
	}
	// The public one first: what the other one has signed can then be read.
	name := filepath.Join(filepath.Dir(path), keyID(public)[:16]+keySuffix)
	if err := s.putBytes(name, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: shown}), 0o644); err != nil {
		return nil, err
	}
	return key, s.putBytes(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600)
}

// trusted are the public keys of this host's folder.
func (s *Store) trusted() ([]ed25519.PublicKey, error) {
	files, err := filepath.Glob(filepath.Join(s.dir, keysDir, "*"+keySuffix))
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	var keys []ed25519.PublicKey
	for _, path := range files {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read key: %w", err)
		}
		block, _ := pem.Decode(raw)
		if block == nil {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "%s is no PEM file", path)
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		key, ok := parsed.(ed25519.PublicKey)
		if err != nil || !ok {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "%s is no public Ed25519 key", path)
		}
		keys = append(keys, key)
	}
	return keys, nil
}
