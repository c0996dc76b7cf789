// Command goplugin is a KMS v2 provider as one would write it in Go today: upstream's own
// service code in front of a PKCS#11 token. It exists to be measured beside keyplane on the
// same token, with the same operation: AES-256-GCM under a root key that was unwrapped into
// a session object, and a nonce from the token. It keeps no audit, knows one key and heals
// nothing.
package main

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/miekg/pkcs11"
	"k8s.io/kms/pkg/service"
)

const (
	keyID      = "goplugin"
	nonceBytes = 12
	tagBits    = 128
)

// plugin serves one root key.
type plugin struct {
	module   *pkcs11.Ctx
	key      pkcs11.ObjectHandle
	sessions chan pkcs11.SessionHandle // those that no call uses now
}

func main() {
	socket := flag.String("socket", "", "absolute path of the socket to make")
	module := flag.String("module", "", "PKCS#11 shared library")
	label := flag.String("token", "keyplane", "label of the token")
	pinFile := flag.String("pin-file", "", "file with the user PIN")
	master := flag.String("master", "keyplane-master", "label of the key that unwraps the root key")
	wrapped := flag.String("wrapped", "", "the root key, wrapped (RFC 5649), in hexadecimal digits")
	sessions := flag.Int("sessions", 1, "calls of the token at once")
	flag.Parse()
	p, err := open(*module, *label, *pinFile, *sessions)
	if err == nil {
		p.key, err = p.unwrap(*master, *wrapped)
	}
	if err == nil {
		err = service.NewGRPCService(*socket, 3*time.Second, p).ListenAndServe()
	}
	fmt.Fprintln(os.Stderr, "goplugin:", err)
	os.Exit(1)
}

// Status tells health and key from memory.
func (p *plugin) Status(context.Context) (*service.StatusResponse, error) {
	return &service.StatusResponse{Version: "v2", Healthz: "ok", KeyID: keyID}, nil
}

// Encrypt answers with nonce, ciphertext and tag.
func (p *plugin) Encrypt(_ context.Context, _ string, plaintext []byte) (*service.EncryptResponse, error) {
	session := <-p.sessions
	defer func() { p.sessions <- session }()
	nonce, err := p.module.GenerateRandom(session, nonceBytes)
	if err != nil {
		return nil, err
	}
	parameters, mechanism := gcm(nonce)
	defer parameters.Free()
	if err := p.module.EncryptInit(session, mechanism, p.key); err != nil {
		return nil, err
	}
	sealed, err := p.module.Encrypt(session, plaintext)
	if err != nil {
		return nil, err
	}
	return &service.EncryptResponse{Ciphertext: append(nonce, sealed...), KeyID: keyID}, nil
}

// Decrypt opens what Encrypt has answered.
func (p *plugin) Decrypt(_ context.Context, _ string, request *service.DecryptRequest) ([]byte, error) {
	if request.KeyID != keyID || len(request.Ciphertext) < nonceBytes+tagBits/8 {
		return nil, errors.New("the ciphertext is not ours")
	}
	session := <-p.sessions
	defer func() { p.sessions <- session }()
	parameters, mechanism := gcm(request.Ciphertext[:nonceBytes])
	defer parameters.Free()
	if err := p.module.DecryptInit(session, mechanism, p.key); err != nil {
		return nil, err
	}
	return p.module.Decrypt(session, request.Ciphertext[nonceBytes:])
}

func gcm(nonce []byte) (*pkcs11.GCMParams, []*pkcs11.Mechanism) {
	parameters := pkcs11.NewGCMParams(nonce, []byte(keyID), tagBits)
	return parameters, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, parameters)}
}

// open loads the module and logs in; objects and login are common to all sessions.
func open(path, label, pinFile string, sessions int) (*plugin, error) {
	module := pkcs11.New(path)
	if module == nil {
		return nil, fmt.Errorf("%s cannot be loaded", path)
	}
	if err := module.Initialize(); err != nil {
		return nil, err
	}
	slot, err := slotOf(module, label)
	if err != nil {
		return nil, err
	}
	pin, err := os.ReadFile(pinFile)
	if err != nil {
		return nil, err
	}
	p := &plugin{module: module, sessions: make(chan pkcs11.SessionHandle, sessions)}
	for range sessions {
		session, err := module.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
		if err != nil {
			return nil, err
		}
		p.sessions <- session
	}
	session := <-p.sessions
	defer func() { p.sessions <- session }()
	return p, module.Login(session, pkcs11.CKU_USER, strings.TrimSpace(string(pin)))
}

func slotOf(module *pkcs11.Ctx, label string) (uint, error) {
	slots, err := module.GetSlotList(true)
	if err != nil {
		return 0, err
	}
	for _, slot := range slots {
		if token, err := module.GetTokenInfo(slot); err == nil && token.Label == label {
			return slot, nil
		}
	}
	return 0, fmt.Errorf("there is no token %q", label)
}

// unwrap makes a session object of the root key, unreadable as keyplane's own.
func (p *plugin) unwrap(master, wrapped string) (pkcs11.ObjectHandle, error) {
	session := <-p.sessions
	defer func() { p.sessions <- session }()
	blob, err := hex.DecodeString(wrapped)
	if err != nil {
		return 0, err
	}
	label := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, master)}
	if err := p.module.FindObjectsInit(session, label); err != nil {
		return 0, err
	}
	found, _, err := p.module.FindObjects(session, 2)
	if err != nil || len(found) != 1 {
		return 0, fmt.Errorf("%d objects %s: %w", len(found), master, err)
	}
	if err := p.module.FindObjectsFinal(session); err != nil {
		return 0, err
	}
	mechanism := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_WRAP_PAD, nil)}
	return p.module.UnwrapKey(session, mechanism, found[0], blob, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, false),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, false),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, false),
		pkcs11.NewAttribute(pkcs11.CKA_DERIVE, false),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_COPYABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false),
	})
}
