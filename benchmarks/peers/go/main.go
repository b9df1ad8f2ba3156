// The three requests in Go: net/http, pgx with its pool on both cores, the very statements of the service.
package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"log"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

const path = "/api/v1/tasks"

type Task struct {
	ID            *int64  `json:"id"` // pointers, for the row of a task that is not there has nulls
	UserID        *string `json:"user_id"`
	Title         *string `json:"title"`
	Description   *string `json:"description"`
	Status        *string `json:"status"`
	Completed     *bool   `json:"completed"`
	Priority      *int16  `json:"priority"`
	PriorityLabel *string `json:"priority_label"`
	DueDate       *string `json:"due_date"`
	CreatedAt     *string `json:"created_at"`
	UpdatedAt     *string `json:"updated_at"`
	CompletedAt   *string `json:"completed_at"`
	DeletedAt     *string `json:"deleted_at"`
	Revision      *int64  `json:"revision"`
}

func (t *Task) columns() []interface{} {
	return []interface{}{&t.ID, &t.UserID, &t.Title, &t.Description, &t.Status, &t.Completed, &t.Priority,
		&t.PriorityLabel, &t.DueDate, &t.CreatedAt, &t.UpdatedAt, &t.CompletedAt, &t.DeletedAt, &t.Revision}
}

type TaskList struct {
	Items      []Task  `json:"items"`
	NextCursor *string `json:"next_cursor"`
	Revision   int64   `json:"revision"`
}

type Draft struct {
	Title       string     `json:"title"`
	Description *string    `json:"description"`
	Status      string     `json:"status"`
	Priority    int16      `json:"priority"`
	DueDate     *time.Time `json:"due_date"`
}

type Claims struct {
	Sid string `json:"sid"`
	jwt.RegisteredClaims
}

type Server struct {
	pool *pgxpool.Pool
	sql  map[string]string
	key  []byte
	jwt  *jwt.Parser
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	claims := s.caller(r)
	id := strings.TrimPrefix(r.URL.Path, path)
	switch {
	case claims == nil:
		http.Error(w, "unauthenticated", http.StatusUnauthorized)
	case r.Method == http.MethodGet && id == "":
		s.list(w, r, claims)
	case r.Method == http.MethodGet && strings.HasPrefix(id, "/"):
		s.get(w, r, claims, id[1:])
	case r.Method == http.MethodPost && id == "":
		s.create(w, r, claims)
	default:
		http.NotFound(w, r)
	}
}

func (s *Server) caller(r *http.Request) *Claims {
	header := r.Header.Get("Authorization")
	if !strings.HasPrefix(header, "Bearer ") {
		return nil
	}
	var claims Claims
	_, err := s.jwt.ParseWithClaims(header[7:], &claims, func(*jwt.Token) (interface{}, error) { return s.key, nil })
	if err != nil || claims.ExpiresAt == nil || !claims.VerifyIssuer("roundtrip", true) ||
		!claims.VerifyAudience("roundtrip-api", true) {
		return nil
	}
	return &claims
}

func (s *Server) get(w http.ResponseWriter, r *http.Request, c *Claims, id string) {
	number, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	var task Task
	err = s.pool.QueryRow(r.Context(), s.sql["get"], c.Subject, c.Sid, number).Scan(task.columns()...)
	if err == nil && task.ID == nil {
		http.NotFound(w, r)
		return
	}
	answer(w, http.StatusOK, &task, err)
}

func (s *Server) list(w http.ResponseWriter, r *http.Request, c *Claims) {
	limit, after, afterID := 50, "infinity", int64(math.MaxInt64)
	query := r.URL.Query()
	if text := query.Get("limit"); text != "" {
		var err error
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > 500 {
			http.Error(w, "limit", http.StatusUnprocessableEntity)
			return
		}
	}
	if cursor := query.Get("cursor"); cursor != "" {
		raw, err := base64.URLEncoding.DecodeString(cursor)
		if err != nil || json.Unmarshal(raw, &[]interface{}{&after, &afterID}) != nil {
			http.Error(w, "cursor", http.StatusUnprocessableEntity)
			return
		}
	}
	page, err := s.page(r.Context(), c, limit, after, afterID)
	answer(w, http.StatusOK, page, err)
}

func (s *Server) page(ctx context.Context, c *Claims, limit int, after string, afterID int64) (*TaskList, error) {
	rows, err := s.pool.Query(ctx, s.sql["list"], c.Subject, c.Sid, nil, int64(math.MaxInt64), 0, limit+1, after, afterID)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	page := &TaskList{Items: make([]Task, 0, limit+1), Revision: -1}
	var fresh bool
	var total, until *int64
	var position *string
	more := false
	for rows.Next() {
		var task Task
		var here *string
		columns := append([]interface{}{&page.Revision, &fresh, &total, &until, &here}, task.columns()...)
		if err := rows.Scan(columns...); err != nil {
			return nil, err
		}
		if more = len(page.Items) == limit; more || task.ID == nil {
			break
		}
		page.Items, position = append(page.Items, task), here
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if page.Revision < 0 {
		return nil, pgx.ErrNoRows
	}
	if more {
		raw, _ := json.Marshal([]interface{}{position, page.Items[limit-1].ID})
		cursor := base64.URLEncoding.EncodeToString(raw)
		page.NextCursor = &cursor
	}
	return page, nil
}

func (s *Server) create(w http.ResponseWriter, r *http.Request, c *Claims) {
	draft := Draft{Status: "pending", Priority: 3}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64*1024))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&draft); err != nil {
		http.Error(w, "malformed", http.StatusBadRequest)
		return
	}
	draft.Title = strings.TrimSpace(draft.Title)
	if length := utf8.RuneCountInString(draft.Title); length < 1 || length > 200 {
		http.Error(w, "title", http.StatusUnprocessableEntity)
		return
	}
	var task Task
	err := s.pool.QueryRow(r.Context(), s.sql["create"], c.Subject, c.Sid, draft.Title, draft.Description,
		draft.Status, draft.Priority, draft.DueDate).Scan(task.columns()...)
	answer(w, http.StatusCreated, &task, err)
}

func answer(w http.ResponseWriter, status int, body interface{}, err error) {
	if err == pgx.ErrNoRows {
		http.Error(w, "unauthenticated", http.StatusUnauthorized)
		return
	}
	if err != nil {
		log.Print(err)
		http.Error(w, "internal", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}

func main() {
	raw, err := os.ReadFile(os.Getenv("STATEMENTS"))
	check(err)
	server := &Server{jwt: jwt.NewParser(jwt.WithValidMethods([]string{"HS256"}))}
	check(json.Unmarshal(raw, &server.sql))
	server.key, err = hex.DecodeString(os.Getenv("TOKEN_KEY"))
	check(err)
	config, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	check(err)
	config.MaxConns = 10
	server.pool, err = pgxpool.ConnectConfig(context.Background(), config)
	check(err)
	check(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), server))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
