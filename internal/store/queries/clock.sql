-- name: Now :one
SELECT nimbus_now();
