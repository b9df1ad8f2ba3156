# mypy: ignore-errors
"""For https://locust.io, which is not a part of the project; benchmarks/README.md says what its figures hide.

uvx locust -f benchmarks/locustfile.py --host http://127.0.0.1:8000 --headless --users 50 --spawn-rate 10 --run-time 30s
"""

import secrets

from locust import FastHttpUser, constant_throughput, task


class Person(FastHttpUser):
    """Somebody who signs up, works on tasks of their own, and leaves nothing behind."""

    wait_time = constant_throughput(2)  # tasks a second, of each user at most

    def on_start(self) -> None:
        account = {
            "email": f"locust-{secrets.token_hex(8)}@example.com",
            "password": secrets.token_urlsafe(16),
        }
        tokens = self.client.post("/api/v1/auth/register", json=account).json()
        self.mine = {"Authorization": f"Bearer {tokens['access_token']}"}
        self.password = account["password"]
        drafts = [{"op": "create", "task": {"title": f"Task {number}"}} for number in range(200)]
        made = self.client.post("/api/v1/tasks/batch", json={"operations": drafts}, headers=self.mine).json()
        self.ids = [result["id"] for result in made["results"]]

    @task(65)
    def single(self) -> None:
        self.client.get(f"/api/v1/tasks/{secrets.choice(self.ids)}", headers=self.mine, name="/tasks/{id}")

    @task(23)
    def page(self) -> None:
        self.client.get("/api/v1/tasks?limit=50", headers=self.mine, name="/tasks")

    @task(3)
    def insert(self) -> None:
        self.client.post("/api/v1/tasks", json={"title": "Another"}, headers=self.mine, name="POST /tasks")

    def on_stop(self) -> None:
        self.client.request("DELETE", "/api/v1/users/me", json={"password": self.password}, headers=self.mine)
